package qr_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"
	memory "github.com/ory/fosite/storage"
	"golang.org/x/oauth2"

	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// A fosite server that somebody already has: fosite's own store, strategies and session. The
// lines that add the QR grant are those that say qr.
func Example() {
	dir, err := os.MkdirTemp("", "qr")
	check(err)
	defer func() { check(os.RemoveAll(dir)) }()
	sessions, err := bolt.Open(filepath.Join(dir, "sessions.db"), bolt.Options{})
	check(err)
	defer func() { check(sessions.Close()) }()

	// The server they have.
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	store := memory.NewMemoryStore()
	store.Clients["desktop"] = &fosite.DefaultClient{ID: "desktop", Public: true, GrantTypes: []string{qr.GrantType}, Scopes: []string{"openid"}}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	config := &fosite.Config{GlobalSecret: make([]byte, 32), IDTokenIssuer: server.URL, AccessTokenIssuer: server.URL}
	strategy := &compose.CommonStrategy{
		CoreStrategy:               compose.NewOAuth2HMACStrategy(config),
		OpenIDConnectTokenStrategy: compose.NewOpenIDConnectStrategy(func(context.Context) (any, error) { return key, nil }, config),
	}
	probe := &fosite.Fosite{Store: store, Config: config}

	// The QR grant.
	grant, err := qr.New(qr.Config{
		Issuer: server.URL, Store: sessions, Keys: []qr.Key{{ID: "1", Secret: make([]byte, 32)}},
		Authenticate: probe.AuthenticateClient,
		Client:       store.GetClient,
		Policy: func(context.Context, fosite.Client) qr.Policy {
			return qr.Policy{QRPolicy: storage.QRPolicy{Enabled: true}, Name: "Desktop", MinNonce: fosite.MinParameterEntropy}
		},
		Introspect: func(_ context.Context, token string) (*qr.Bearer, error) {
			if token != "the-phone's-token" {
				return nil, storage.ErrNotFound
			}
			return &qr.Bearer{
				Subject: "alice", ClientID: "app", SessionID: "s1", Approver: true, AuthTime: time.Now(),
				Scopes: []string{qr.ApproveScope}, Audience: []string{server.URL},
			}, nil
		},
	})
	check(err)
	provider := compose.Compose(config, store, strategy, grant.Factory)
	mux.HandleFunc("/device_authorization", grant.DeviceAuthorization)
	mux.HandleFunc("/qr/scan", grant.Scan)
	mux.HandleFunc("/qr/decision", grant.Decision)
	mux.HandleFunc("/qr/events", grant.Events)
	mux.HandleFunc("/qr/ws", grant.WebSocket)
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		request, err := provider.NewAccessRequest(r.Context(), r, openid.NewDefaultSession())
		if err == nil {
			var response fosite.AccessResponder
			if response, err = provider.NewAccessResponse(r.Context(), request); err == nil {
				provider.WriteAccessResponse(r.Context(), w, request, response)
				return
			}
		}
		grant.WriteTokenError(w, r, err)
	})

	// The PC opens a session and shows its payload as a QR code.
	verifier := oauth2.GenerateVerifier()
	opened := post(server.URL+"/device_authorization", url.Values{
		"client_id": {"desktop"}, "scope": {"openid"}, "code_challenge_method": {"S256"},
		"code_challenge": {oauth2.S256ChallengeFromVerifier(verifier)},
	})
	poll := url.Values{
		"grant_type": {qr.GrantType}, "client_id": {"desktop"},
		"device_code": {opened["device_code"].(string)}, "code_verifier": {verifier},
	}
	fmt.Println(post(server.URL+"/token", poll)["qr_status"])

	// The phone scans it; the PC shows the check code; the person types it and approves.
	scanned := tell(server.URL+"/qr/scan", map[string]any{
		"payload": opened["qr"].(map[string]any)["payload"], "entry": "scanner",
	})
	fmt.Println(scanned["context"].(map[string]any)["consequence"])
	screen := post(server.URL+"/token", poll)
	fmt.Println(screen["qr_status"])
	decided := tell(server.URL+"/qr/decision", map[string]any{
		"decision": "approve", "confirm_handle": scanned["confirm_handle"],
		"context_digest": scanned["context_digest"], "check_code": screen["check_code"],
	})
	fmt.Println(decided["state"])

	// The PC's next poll receives the tokens.
	tokens := post(server.URL+"/token", poll)
	fmt.Println(tokens["token_type"], len(strings.Split(tokens["id_token"].(string), ".")) == 3)
	// Output:
	// pending
	// Another device will be signed in to Desktop as you.
	// scanned
	// approved
	// bearer true
}

func post(endpoint string, form url.Values) map[string]any {
	response, err := http.PostForm(endpoint, form)
	check(err)
	return body(response)
}

func tell(endpoint string, message map[string]any) map[string]any {
	encoded, err := json.Marshal(message)
	check(err)
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, endpoint, bytes.NewReader(encoded))
	check(err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer the-phone's-token")
	response, err := http.DefaultClient.Do(request)
	check(err)
	return body(response)
}

func body(response *http.Response) map[string]any {
	defer func() { check(response.Body.Close()) }()
	var decoded map[string]any
	check(json.NewDecoder(response.Body).Decode(&decoded))
	return decoded
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
