package provider_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// phoneCall sends JSON to a phone endpoint.
func phoneCall(t *testing.T, s *providertest.Server, path, token string, body map[string]string) *providertest.Reply {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL(path), bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	return s.Do(s.Client(), req)
}

// opened is a started sign-in of the command line client.
type opened struct {
	start    *providertest.Reply
	poll     url.Values
	verifier string
}

func open(t *testing.T, s *providertest.Server, scope string) opened {
	t.Helper()
	verifier, challenge := providertest.Verifier()
	start := s.Post(t.Context(), s.Client(), "/device_authorization", url.Values{
		"client_id": {"cli"}, "scope": {scope}, "nonce": {"the-nonce"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"},
	})
	if start.Status != http.StatusOK {
		t.Fatalf("start: %d %s", start.Status, start.Body)
	}
	return opened{start: start, verifier: verifier, poll: url.Values{
		"grant_type": {qr.GrantType}, "client_id": {"cli"}, "device_code": {start.Text("device_code")}, "code_verifier": {verifier},
	}}
}

func (o opened) payload() string {
	frame, _ := o.start.JSON()["qr"].(map[string]any)
	payload, _ := frame["payload"].(string)
	return payload
}

// approve scans and approves with a phone's token and returns the answer of the decision.
func (o opened) approve(t *testing.T, s *providertest.Server, token string) *providertest.Reply {
	t.Helper()
	scan := phoneCall(t, s, "/qr/scan", token, map[string]string{"payload": o.payload(), "entry": "scanner"})
	if scan.Status != http.StatusOK {
		t.Fatalf("scan: %d %s", scan.Status, scan.Body)
	}
	s.Clock.Advance(5 * time.Second)
	pending := s.Post(t.Context(), s.Client(), "/token", o.poll)
	s.Clock.Advance(5 * time.Second)
	return phoneCall(t, s, "/qr/decision", token, map[string]string{
		"confirm_handle": scan.Text("confirm_handle"), "decision": "approve", "context_digest": scan.Text("context_digest"), "check_code": pending.Text("check_code"),
	})
}

func TestQRGrantFromTheScreenToTheTokens(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	phone := s.SignedIn(t.Context(), s.Browser(), "phone", "openid qr:approve")
	s.Clock.Advance(time.Minute)
	o := open(t, s, "openid profile email offline_access")
	wantError(t, s.Post(t.Context(), s.Client(), "/token", o.poll), http.StatusBadRequest, "authorization_pending")
	decision := o.approve(t, s, phone.AccessToken)
	if decision.Text("state") != "approved" {
		t.Fatalf("decision: %d %s", decision.Status, decision.Body)
	}
	tokens := tokensOf(t, s.Post(t.Context(), s.Client(), "/token", o.poll))

	got, approver := claims(t, tokens.IDToken), claims(t, phone.IDToken)
	want := map[string]any{
		"iss": s.Issuer, "sub": providertest.AliceSubject, "aud": "cli", "nonce": "the-nonce", "sid": decision.Text("sid"),
		"auth_time": approver["auth_time"], "acr": approver["acr"], "amr": []any{"pwd", "mca"},
	}
	for name, value := range want {
		if diff := cmp.Diff(value, got[name]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if reply := s.Bearer(t.Context(), "/userinfo", tokens.AccessToken); reply.Text("email") != "alice@example.org" {
		t.Errorf("userinfo: %d %s", reply.Status, reply.Body)
	}
	session, err := s.Store.Session(t.Context(), decision.Text("sid"))
	if err != nil || !session.QRBorn || session.ParentID != approver["sid"] || session.ClientID != "cli" || session.ApproverID != "phone" {
		t.Errorf("session %+v, %v", session, err)
	}
	// A family of a QR approval lasts a day, however often it is rotated.
	s.Clock.Advance(23 * time.Hour)
	next := tokensOf(t, s.Post(t.Context(), s.Client(), "/token", url.Values{"grant_type": {"refresh_token"}, "client_id": {"cli"}, "refresh_token": {tokens.RefreshToken}}))
	if _, ok := claims(t, next.IDToken)["nonce"]; ok {
		t.Error("the refreshed ID token repeats the nonce")
	}
	s.Clock.Advance(time.Hour)
	wantError(t, s.Post(t.Context(), s.Client(), "/token", url.Values{"grant_type": {"refresh_token"}, "client_id": {"cli"}, "refresh_token": {next.RefreshToken}}), http.StatusBadRequest, "invalid_grant")
}

func TestQRRedemption64Racers(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	phone := s.ApproverToken(t.Context())
	o := open(t, s, "openid")
	if d := o.approve(t, s, phone); d.Status != http.StatusOK {
		t.Fatal(d.Body)
	}
	var won atomic.Int32
	var racers sync.WaitGroup
	for range 64 {
		racers.Go(func() {
			reply := s.Post(t.Context(), s.Client(), "/token", o.poll)
			switch {
			case reply.Status == http.StatusOK:
				won.Add(1)
			case reply.Text("error") != "invalid_grant":
				t.Errorf("a loser got %d %s", reply.Status, reply.Body)
			}
		})
	}
	racers.Wait()
	if won.Load() != 1 {
		t.Errorf("%d racers got tokens", won.Load())
	}
}

func TestQRApproverTokenIsForThisIssuerOnly(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	phone := s.SignedIn(t.Context(), s.Browser(), "phone", "openid qr:approve offline_access")
	// The audience survives a refresh, which is the token that a phone really uses.
	again := tokensOf(t, s.Post(t.Context(), s.Client(), "/token", url.Values{"grant_type": {"refresh_token"}, "client_id": {"phone"}, "refresh_token": {phone.RefreshToken}}))
	o := open(t, s, "openid")
	if d := o.approve(t, s, again.AccessToken); d.Text("state") != "approved" {
		t.Errorf("decision: %d %s", d.Status, d.Body)
	}
	for name, token := range map[string]string{
		"a token without the scope": s.SignedIn(t.Context(), s.Browser(), "phone", "openid").AccessToken,
		"a refresh token":           again.RefreshToken,
		"an ID token":               again.IDToken,
		"a token of the web client": s.SignedIn(t.Context(), s.Browser(), "web", "openid").AccessToken,
		"garbage":                   "x",
	} {
		o := open(t, s, "openid")
		if reply := phoneCall(t, s, "/qr/scan", token, map[string]string{"payload": o.payload(), "entry": "scanner"}); reply.Status != 401 && reply.Status != 403 {
			t.Errorf("%s: %d %s", name, reply.Status, reply.Body)
		}
	}
}

func TestQRApproverMustStayActive(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *providertest.Server, string){
		"the approving sign-in ends": func(t *testing.T, s *providertest.Server, sid string) {
			t.Helper()
			if err := s.Store.EndSession(t.Context(), sid, s.Clock.Now()); err != nil {
				t.Fatal(err)
			}
		},
		"the person is disabled": func(t *testing.T, s *providertest.Server, _ string) {
			t.Helper()
			alice := providertest.Alice()
			alice.Disabled = true
			if err := s.Store.PutUser(t.Context(), alice); err != nil {
				t.Fatal(err)
			}
		},
		"the phone app is disabled": func(t *testing.T, s *providertest.Server, _ string) {
			t.Helper()
			if err := s.Store.PutClient(t.Context(), &storage.Client{ID: "phone", Approver: true, Disabled: true}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			phone := s.SignedIn(t.Context(), s.Browser(), "phone", "openid qr:approve")
			o := open(t, s, "openid")
			if d := o.approve(t, s, phone.AccessToken); d.Status != http.StatusOK {
				t.Fatal(d.Body)
			}
			sid, _ := claims(t, phone.IDToken)["sid"].(string)
			end(t, s, sid)
			wantError(t, s.Post(t.Context(), s.Client(), "/token", o.poll), http.StatusBadRequest, "access_denied")
		})
	}
}

func TestQRNotMeEndsTheSignIn(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"access", "refresh"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			o := open(t, s, "openid offline_access")
			d := o.approve(t, s, s.ApproverToken(t.Context()))
			tokens := tokensOf(t, s.Post(t.Context(), s.Client(), "/token", o.poll))
			token := tokens.AccessToken
			if which == "refresh" {
				token = tokens.RefreshToken
			}
			if reply := s.Post(t.Context(), s.Client(), "/revoke", url.Values{"client_id": {"cli"}, "token": {token}}); reply.Status != http.StatusOK {
				t.Fatalf("revoke: %d %s", reply.Status, reply.Body)
			}
			wantError(t, s.Bearer(t.Context(), "/userinfo", tokens.AccessToken), http.StatusUnauthorized, "invalid_token")
			wantError(t, s.Post(t.Context(), s.Client(), "/token", url.Values{"grant_type": {"refresh_token"}, "client_id": {"cli"}, "refresh_token": {tokens.RefreshToken}}), http.StatusBadRequest, "invalid_grant")
			session, err := s.Store.Session(t.Context(), d.Text("sid"))
			if err != nil || session.EndedAt.IsZero() {
				t.Errorf("the sign-in lasts: %+v %v", session, err)
			}
		})
	}
}

func TestQRReportTakesBackOnlyWhatTheReporterApproved(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	phone := s.ApproverToken(t.Context())
	web := s.SignedIn(t.Context(), s.Browser(), "web", "openid")
	first := open(t, s, "openid")
	first.approve(t, s, phone)
	tokens := tokensOf(t, s.Post(t.Context(), s.Client(), "/token", first.poll))

	second := open(t, s, "openid")
	scan := phoneCall(t, s, "/qr/scan", phone, map[string]string{"payload": second.payload(), "entry": "scanner"})
	report := phoneCall(t, s, "/qr/decision", phone, map[string]string{"confirm_handle": scan.Text("confirm_handle"), "decision": "report"})
	if report.Text("state") != "denied" {
		t.Fatalf("report: %d %s", report.Status, report.Body)
	}
	wantError(t, s.Bearer(t.Context(), "/userinfo", tokens.AccessToken), http.StatusUnauthorized, "invalid_token")
	for name, token := range map[string]string{"phone": phone, "web": web.AccessToken} {
		if reply := s.Bearer(t.Context(), "/userinfo", token); reply.Status != http.StatusOK {
			t.Errorf("the %s token died with the report: %d", name, reply.Status)
		}
	}
}

// A hint that could not be looked up opens nothing: a session bound to nobody would look well
// and could never be approved.
func TestQRHintNeedsTheStore(t *testing.T) {
	t.Parallel()
	store := &loginsDown{}
	s := providertest.NewServer(t, providertest.Options{Wrap: func(inner storage.Store) storage.Store {
		store.Store = inner
		return store
	}})
	store.on.Store(true)
	reply := tryOpenQR(t, s, "cli", url.Values{"login_hint": {providertest.AliceLogin}}).opened
	if reply.Status < http.StatusInternalServerError || reply.Text("device_code") != "" || strings.Contains(reply.Body, "disk") {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	openQR(t, s, "cli", nil)
	store.on.Store(false)
	openQR(t, s, "cli", url.Values{"login_hint": {providertest.AliceLogin}})
}

func TestQRHintBindsTheApprover(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	if err := s.Store.PutUser(t.Context(), &storage.User{Subject: "bob-1", Login: "bob"}); err != nil {
		t.Fatal(err)
	}
	phone := s.SignedIn(t.Context(), s.Browser(), "phone", "openid qr:approve")
	s.Clock.Advance(time.Minute)
	start := func(name, value string) string {
		_, challenge := providertest.Verifier()
		reply := s.Post(t.Context(), s.Client(), "/device_authorization", url.Values{
			"client_id": {"cli"}, "scope": {"openid"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"}, name: {value},
		})
		return opened{start: reply}.payload()
	}
	for name, c := range map[string]struct {
		payload string
		status  int
	}{
		"alice by login":    {start("login_hint", "Alice"), 200},
		"bob by login":      {start("login_hint", "bob"), 403},
		"nobody by login":   {start("login_hint", "nobody"), 403},
		"alice by ID token": {start("id_token_hint", phone.IDToken), 200},
		"a forged ID token": {start("id_token_hint", phone.IDToken[:len(phone.IDToken)-6]+"AAAAAA"), 403},
	} {
		if reply := phoneCall(t, s, "/qr/scan", phone.AccessToken, map[string]string{"payload": c.payload, "entry": "scanner"}); reply.Status != c.status {
			t.Errorf("%s: %d %s, want %d", name, reply.Status, reply.Body, c.status)
		}
	}
}
