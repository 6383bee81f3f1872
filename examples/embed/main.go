// Command embed is a fosite server that somebody already has, and the lines that give it the QR
// grant: those marked "QR". It keeps its own clients, store, tokens and sign-in page.
//
//	go run ./examples/embed
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"flag"
	"log"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"
	memory "github.com/ory/fosite/storage"
	"github.com/ory/fosite/token/jwt"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8070", "`HOST:PORT` to listen on")
	issuer := flag.String("issuer", "http://127.0.0.1:8070", "`URL` of this server")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *addr, *issuer)
	stop()
	if err != nil {
		log.Fatalln("embed:", err)
	}
}

// run serves until ctx ends. The QR sessions go with the process, as its secrets do.
func run(ctx context.Context, addr, issuer string) (err error) {
	dir, err := os.MkdirTemp("", "embed-qr-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	mux := http.NewServeMux()
	closeQR, err := serve(mux, issuer, filepath.Join(dir, "qr.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeQR()) }()
	server := &http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 20 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	log.Println("embed serves", issuer)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return server.Close()
	}
}

// serve returns what ends the QR grant and closes its store.
func serve(mux *http.ServeMux, issuer, data string) (func() error, error) {
	// The server they have: a client for the phone app, which signs people in with code + PKCE.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	secret := []byte(rand.Text() + rand.Text())
	store := memory.NewMemoryStore()
	store.Clients["phone"] = &fosite.DefaultClient{
		ID: "phone", Public: true, RedirectURIs: []string{"com.example.app:/callback"}, ResponseTypes: []string{"code"},
		GrantTypes: []string{"authorization_code"}, Scopes: []string{"openid", qr.ApproveScope}, // QR: the scope
	}
	config := &fosite.Config{GlobalSecret: secret[:32], IDTokenIssuer: issuer, AccessTokenIssuer: issuer, EnforcePKCE: true}
	strategy := &compose.CommonStrategy{
		CoreStrategy:               compose.NewOAuth2HMACStrategy(config),
		OpenIDConnectTokenStrategy: compose.NewOpenIDConnectStrategy(func(context.Context) (any, error) { return key, err }, config),
	}
	server := compose.Compose(config, store, strategy, compose.OAuth2AuthorizeExplicitFactory,
		compose.OAuth2PKCEFactory, compose.OpenIDConnectExplicitFactory, compose.OAuth2TokenIntrospectionFactory)
	mux.HandleFunc("/authorize", authorize(server, issuer))

	// QR: a store for its sessions, a client that may ask, and the grant itself.
	sessions, openErr := bolt.Open(data, bolt.Options{})
	if err := errors.Join(err, openErr); err != nil {
		return nil, err
	}
	store.Clients["desktop"] = &fosite.DefaultClient{ID: "desktop", Public: true, GrantTypes: []string{qr.GrantType}, Scopes: []string{"openid"}}
	sealing := []byte(rand.Text() + rand.Text()) // keep it with the other secrets
	proofs := dpop.New(dpop.Config{
		Secrets: func() [][]byte { return [][]byte{sealing} },
		UseOnce: func(ctx context.Context, id [32]byte, until time.Time) error {
			err := sessions.UseOnce(ctx, id, until, time.Now())
			if errors.Is(err, storage.ErrConflict) {
				return dpop.ErrUsed
			}
			return err
		},
	})
	grant, err := qr.New(qr.Config{
		Issuer: issuer, Store: sessions, Proofs: proofs, Keys: []qr.Key{{ID: "1", Secret: sealing}},
		Authenticate: server.(*fosite.Fosite).AuthenticateClient, Client: store.GetClient,
		Policy: func(_ context.Context, c fosite.Client) qr.Policy {
			return qr.Policy{QRPolicy: storage.QRPolicy{Enabled: c.GetID() == "desktop"}, Name: "Desktop", MinNonce: fosite.MinParameterEntropy}
		},
		Introspect: func(ctx context.Context, token string) (*qr.Bearer, error) { return bearer(ctx, server, token) },
	})
	if err != nil {
		return nil, errors.Join(err, sessions.Close())
	}
	config.TokenEndpointHandlers.Append(grant.Factory(config, store, strategy).(fosite.TokenEndpointHandler))
	mux.HandleFunc("/device_authorization", grant.DeviceAuthorization)
	mux.HandleFunc("/qr/scan", grant.Scan)
	mux.HandleFunc("/qr/decision", grant.Decision)
	mux.HandleFunc("/qr/cancel", grant.Cancel)
	mux.HandleFunc("/qr/events", grant.Events)
	mux.HandleFunc("/qr/ws", grant.WebSocket)
	mux.HandleFunc("/.well-known/qr-configuration", grant.Configuration)
	mux.HandleFunc("/token", token(server, grant, proofs, issuer))
	return func() error { return errors.Join(grant.Close(), sessions.Close()) }, nil
}

// authorize stands for their sign-in page: here everybody is Peter, and signs in at once.
func authorize(server fosite.OAuth2Provider, issuer string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		request, err := server.NewAuthorizeRequest(r.Context(), r)
		if err != nil {
			server.WriteAuthorizeError(r.Context(), w, request, err)
			return
		}
		for _, scope := range request.GetRequestedScopes() {
			request.GrantScope(scope)
		}
		request.GrantAudience(issuer) // QR: a token that approves is for this server alone
		now := time.Now()
		peter := newPerson()
		peter.Subject, peter.Claims = "peter", &jwt.IDTokenClaims{Subject: "peter", AuthTime: now, RequestedAt: now}
		response, err := server.NewAuthorizeResponse(r.Context(), request, peter)
		if err != nil {
			server.WriteAuthorizeError(r.Context(), w, request, err)
			return
		}
		server.WriteAuthorizeResponse(r.Context(), w, request, response)
	}
}

// person is their session; the key is QR, for tokens that are bound to one (RFC 9449).
type person struct {
	*openid.DefaultSession
	key string
}

func newPerson() *person { return &person{DefaultSession: openid.NewDefaultSession()} }

func (p *person) Clone() fosite.Session {
	return &person{DefaultSession: p.DefaultSession.Clone().(*openid.DefaultSession), key: p.key}
}

func (p *person) SetRedemption(r qr.Redemption) { p.key = r.JKT }

// token is their token endpoint.
func token(server fosite.OAuth2Provider, grant *qr.Server, proofs *dpop.Verifier, issuer string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		key, err := prove(w, r, proofs, issuer) // QR: keys
		var request fosite.AccessRequester
		if err == nil {
			request, err = server.NewAccessRequest(r.Context(), r, newPerson())
		}
		if err == nil {
			peter := request.GetSession().(*person)
			if key != "" {
				peter.key = key // QR: a phone's; that of a poll is there by now
			}
			var response fosite.AccessResponder
			if response, err = server.NewAccessResponse(r.Context(), request); err == nil {
				if peter.key != "" {
					response.SetTokenType(dpop.Scheme) // QR: was always bearer
				}
				server.WriteAccessResponse(r.Context(), w, request, response)
				return
			}
		}
		grant.WriteTokenError(w, r, err) // QR: was server.WriteAccessError
	}
}

// prove is QR: the key that a phone proves with its request (RFC 9449 §5), before fosite uses up
// anything. The grant checks the proof of a poll itself, and a proof is good once.
func prove(w http.ResponseWriter, r *http.Request, proofs *dpop.Verifier, issuer string) (key string, err error) {
	w.Header().Set(dpop.HeaderNonce, proofs.Nonce())
	if r.PostFormValue("grant_type") == qr.GrantType {
		return "", nil
	}
	key, err = proofs.Verify(r.Context(), dpop.Request{Proofs: r.Header.Values(dpop.Header), Method: r.Method, URL: issuer + "/token"})
	var refused *dpop.Error
	if errors.As(err, &refused) {
		err = &fosite.RFC6749Error{ErrorField: refused.Code, DescriptionField: refused.Sentence, CodeField: http.StatusBadRequest}
	}
	return key, err
}

// bearer is QR: what the grant may know of a phone's access token. The phone app is no client of
// the QR grant, so none of its tokens was itself born of an approval.
func bearer(ctx context.Context, server fosite.OAuth2Provider, token string) (*qr.Bearer, error) {
	_, request, err := server.IntrospectToken(ctx, token, fosite.AccessToken, newPerson())
	if err != nil {
		return nil, errors.Join(storage.ErrNotFound, err)
	}
	approver := request.GetSession().(*person)
	return &qr.Bearer{
		Subject: approver.GetSubject(), ClientID: request.GetClient().GetID(), SessionID: request.GetID(), AuthTime: approver.Claims.AuthTime, JKT: approver.key,
		Scopes: request.GetGrantedScopes(), Audience: request.GetGrantedAudience(), Approver: request.GetClient().GetID() == "phone",
	}, nil
}
