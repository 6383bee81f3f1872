package provider

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/storage"
)

// newProofs returns the check of DPoP proofs. The nonces come of the server keys, so that every
// process takes those of the others.
func (p *Provider) newProofs() *dpop.Verifier {
	return dpop.New(dpop.Config{
		UseOnce: p.useOnce,
		Secrets: func() [][]byte {
			var secrets [][]byte
			for _, k := range p.keys.serverKeys("") {
				secrets = append(secrets, k.Secret)
			}
			return secrets
		},
		NonceOptional: p.config.DPoPNonceOptional,
		Now:           p.config.Now,
	})
}

// useOnce marks the identifier of a proof as used.
func (p *Provider) useOnce(ctx context.Context, id [32]byte, until time.Time) error {
	err := p.config.Store.UseOnce(ctx, id, until, p.config.Now())
	if errors.Is(err, storage.ErrConflict) {
		return fmt.Errorf("provider: %w", dpop.ErrUsed)
	}
	return err
}

// prove checks the DPoP proof of a request, if there is one, and returns the thumbprint of its
// key; empty without a proof. accessToken is the one the request came with, empty where it brings
// none. The answer of a request with a proof carries the nonce for the next (RFC 9449 §8.2).
func (p *Provider) prove(w http.ResponseWriter, r *http.Request, accessToken string) (jkt string, err error) {
	proofs := r.Header.Values("DPoP")
	if len(proofs) == 0 {
		return "", nil
	}
	w.Header().Set("DPoP-Nonce", p.dpop.Nonce())
	return p.dpop.Verify(r.Context(), dpop.Request{
		Proofs: proofs, Method: r.Method, URL: p.origin() + r.URL.EscapedPath(), AccessToken: accessToken,
	})
}

// proveAsClient is prove for the client of a token request, before anything is read that the
// request could use up.
func (p *Provider) proveAsClient(w http.ResponseWriter, r *http.Request, client fositestore.Client) (jkt string, err error) {
	jkt, err = p.prove(w, r, "")
	if err == nil && jkt == "" && client.RequireDPoP {
		w.Header().Set("DPoP-Nonce", p.dpop.Nonce())
		err = &oauthError{status: http.StatusBadRequest, code: dpop.CodeInvalidProof, description: "The client has to send a DPoP proof."}
	}
	return jkt, err
}

// proofError is the answer to a proof that was refused; nil when err is something else.
func proofError(err error) *oauthError {
	var refused *dpop.Error
	if !errors.As(err, &refused) {
		return nil
	}
	return &oauthError{status: http.StatusBadRequest, code: refused.Code, description: refused.Sentence, cause: err}
}
