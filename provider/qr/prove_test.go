package qr_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider/dpop"
	"github.com/qrgrant/qrgrant/provider/qr"
)

// A fosite session that cannot take the key never gets tokens that only look bound, and a server
// without Proofs refuses a key at the start.
func TestStockServerWithKeys(t *testing.T) {
	t.Parallel()
	key, err := dpop.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	bound := url.Values{"dpop_jkt": {key.Thumbprint()}}
	refused, _ := newStock(t, nil).open(bound)
	wantError(t, refused, "invalid_request")

	s := newStock(t, func(c *qr.Config) {
		c.Proofs = dpop.New(dpop.Config{
			UseOnce:       func(context.Context, [32]byte, time.Time) error { return nil },
			Secrets:       func() [][]byte { return [][]byte{make([]byte, 32)} },
			NonceOptional: true, Now: c.Now,
		})
	})
	key.Now = s.clock
	unbound, poll := s.open(nil)
	s.decide(unbound, poll, "approve")
	if tokens := post(s.url+"/token", poll); tokens["access_token"] == nil {
		t.Errorf("an unbound session: %v", tokens)
	}
	opened, poll := s.open(bound)
	wantError(t, post(s.url+"/token", poll), "invalid_grant")
	frame, _ := opened["qr"].(map[string]any)
	scanned := tell(s.url+"/qr/scan", map[string]any{"payload": frame["payload"], "entry": "scanner"})
	screen := s.prove(t, key, poll)
	tell(s.url+"/qr/decision", map[string]any{
		"decision": "approve", "confirm_handle": scanned["confirm_handle"],
		"context_digest": scanned["context_digest"], "check_code": screen.Get("check_code"),
	})
	if answer := s.prove(t, key, poll); answer.Get("error") != "server_error" {
		t.Errorf("a bound session: %v", answer)
	}
}

// prove polls with a proof, and returns the members that are strings.
func (s *stock) prove(t *testing.T, key *dpop.Key, poll url.Values) url.Values {
	t.Helper()
	proof, err := key.Proof(http.MethodPost, s.url+"/token", "", "")
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/token", strings.NewReader(poll.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("DPoP", proof)
	members := url.Values{}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range body(answer) {
		if text, ok := value.(string); ok {
			members.Set(name, text)
		}
	}
	return members
}
