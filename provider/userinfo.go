package provider

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider/internal/fositestore"
	"github.com/qrgrant/qrgrant/provider/internal/reply"
	"github.com/qrgrant/qrgrant/storage"
)

// mediaJWT is that of a signed answer (OpenID Connect Core §5.3.2).
const mediaJWT = "application/jwt"

// userinfo is GET and POST /userinfo (OpenID Connect Core §5.3).
func (p *Provider) userinfo(w http.ResponseWriter, r *http.Request) {
	grant, client, err := p.presentedToken(w, r)
	if err != nil {
		p.writeBearerError(w, r, err)
		return
	}
	user, err := p.config.Store.User(r.Context(), grant.Subject)
	if err != nil {
		p.writeBearerError(w, r, err)
		return
	}
	claims := claimsOf(user, grant.Scopes, grant.Facts.UserinfoClaims)
	if claims["sub"], err = p.keys.subjectFor(client.Client, user.Subject); err != nil {
		p.writeError(w, r, unavailable(err))
		return
	}
	if client.UserinfoAlg == "" {
		writeJSON(w, http.StatusOK, claims)
		return
	}
	// A signed answer says whose it is and for whom. Without exp, iat and nonce it can never
	// pass for an ID token.
	claims["iss"], claims["aud"] = p.config.Issuer, client.ID
	payload, err := json.Marshal(claims)
	if err != nil {
		p.writeError(w, r, serverError(err))
		return
	}
	signed, err := p.keys.sign(r.Context(), jose.SignatureAlgorithm(client.UserinfoAlg), typUserinfo, payload)
	if err != nil {
		p.writeError(w, r, serverError(err))
		return
	}
	reply.Encoded(w, http.StatusOK, mediaJWT, []byte(signed))
}

// presentedToken returns the access token of a request to userinfo with its client, if it is good
// there: of a person, for us, and with the scope openid.
func (p *Provider) presentedToken(w http.ResponseWriter, r *http.Request) (*fositestore.Grant, fositestore.Client, error) {
	sent, err := readToken(w, r)
	if err != nil {
		return nil, fositestore.Client{}, err
	}
	grant, err := p.lookup(r.Context(), sent.token)
	switch {
	case err != nil:
		return nil, fositestore.Client{}, sent.refused(err)
	case grant.Kind != storage.TokenAccess || grant.Subject == "":
		return nil, fositestore.Client{}, sent.refused(storage.ErrNotFound)
	}
	// Script must be able to read why its token or its proof was refused.
	if err := p.answerReadableFor(r.Context(), grant.ClientID); err != nil {
		return nil, fositestore.Client{}, err
	}
	if len(grant.Audience) > 0 && !slices.Contains(grant.Audience, p.config.Issuer) {
		// It is for other resource servers, any of which could bring it here (RFC 9068 §4).
		return nil, fositestore.Client{}, sent.forAnother(grant)
	}
	// The proof comes first: a token in the wrong hands has not arrived (active).
	if err := p.proveToken(w, r, sent, grant); err != nil {
		return nil, fositestore.Client{}, err
	}
	client, err := p.active(r.Context(), grant)
	if err != nil {
		return nil, fositestore.Client{}, sent.refused(err)
	}
	if !slices.Contains(grant.Scopes, "openid") {
		return nil, fositestore.Client{}, sent.lacksOpenID()
	}
	return grant, client, nil
}
