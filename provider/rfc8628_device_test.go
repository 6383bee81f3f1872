package provider_test

import (
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// The tests of the rfc8628 files are the rows of a checklist of RFC 8628, named by id and by
// section. Where a row and our protocol differ, the protocol wins and the test says so. D01
// (TLS) and D09 (the page of the consumption device) belong to the provider's configuration
// and to the hosted door, which are not part of the device grant. D18, a client that backs
// off, is tested where the client is, in cmd/qrgrant. D28 (non-visual channels only near the
// device) is advice for whoever builds one: this server offers a picture and a text only.

// wantRefusal checks an error answer: exact status and code, a fixed sentence, never cached.
func wantRefusal(t *testing.T, reply *providertest.Reply, status int, code string) {
	t.Helper()
	if reply.Status != status || reply.Text("error") != code {
		t.Errorf("got %d %s, want %d %s", reply.Status, reply.Body, status, code)
		return
	}
	if got := reply.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control = %q", got)
	}
	media, _, _ := mime.ParseMediaType(reply.Header.Get("Content-Type"))
	if media != "application/json" && media != "application/problem+json" {
		t.Errorf("Content-Type = %q", reply.Header.Get("Content-Type"))
	}
	if status == http.StatusUnauthorized && reply.Header.Get("WWW-Authenticate") == "" {
		t.Error("a 401 without WWW-Authenticate")
	}
	sentence := reply.Text("error_description") + reply.Text("title")
	if !regexp.MustCompile(`^[A-Z][A-Za-z0-9 ,.'/_-]+\.$`).MatchString(sentence) {
		t.Errorf("no plain sentence: %q", sentence)
	}
}

// wantUnchanged checks that nothing of the session moved since before.
func wantUnchanged(t *testing.T, before, after *storage.QRSession) {
	t.Helper()
	if diff := cmp.Diff(before, after, cmpopts.IgnoreUnexported(storage.QRSession{})); diff != "" {
		t.Errorf("the session changed: %s", diff)
	}
}

// §3.1: the device authorization endpoint authenticates clients as the token endpoint does.
func TestD02ClientAuthentication(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	const secret = providertest.ClientSecret
	for _, row := range []struct {
		name   string
		form   url.Values
		basic  []string
		bearer bool
		status int
		code   string
	}{
		{"a public client sends its client_id", url.Values{"client_id": {"tv"}}, nil, false, 200, ""},
		{"a public client without client_id", url.Values{}, nil, false, 401, "invalid_client"},
		{"an unknown client", url.Values{"client_id": {"nobody"}}, nil, false, 401, "invalid_client"},
		{"a public client with a secret", url.Values{"client_id": {"tv"}, "client_secret": {secret}}, nil, false, 401, "invalid_client"},
		{"a confidential client with Basic", url.Values{}, []string{"kiosk", secret}, false, 200, ""},
		{"a confidential client with Basic and its client_id", url.Values{"client_id": {"kiosk"}}, []string{"kiosk", secret}, false, 200, ""},
		{"a confidential client with the form", url.Values{"client_id": {"kiosk"}, "client_secret": {secret}}, nil, false, 200, ""},
		{"a confidential client without its secret", url.Values{"client_id": {"kiosk"}}, nil, false, 401, "invalid_client"},
		{"a confidential client with a wrong secret", url.Values{}, []string{"kiosk", "wrong"}, false, 401, "invalid_client"},
		{"a confidential client with an empty secret", url.Values{}, []string{"kiosk", ""}, false, 401, "invalid_client"},
		{"two methods at once", url.Values{"client_secret": {secret}}, []string{"kiosk", secret}, false, 400, "invalid_request"},
		{"another client_id than that of Basic", url.Values{"client_id": {"tv"}}, []string{"kiosk", secret}, false, 400, "invalid_request"},
		{"another scheme", url.Values{"client_id": {"tv"}}, nil, true, 401, "invalid_client"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			for path, ok := range map[string]string{"/device_authorization": "", "/token": "invalid_grant", "/qr/cancel": "invalid_grant"} {
				form := url.Values{"scope": {"openid"}, "grant_type": {qr.DeviceGrantType}, "device_code": {"unknown"}}
				for name, values := range row.form {
					form[name] = values
				}
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL(path), strings.NewReader(form.Encode()))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				if row.basic != nil {
					req.SetBasicAuth(row.basic[0], row.basic[1])
				}
				if row.bearer {
					req.Header.Set("Authorization", "Bearer tv")
				}
				reply := s.Do(s.Client(), req)
				switch {
				case row.status != http.StatusOK:
					wantRefusal(t, reply, row.status, row.code)
				case ok != "":
					wantRefusal(t, reply, http.StatusBadRequest, ok)
				case reply.Status != http.StatusOK:
					t.Errorf("%s: %d %s", path, reply.Status, reply.Body)
				}
			}
		})
	}
}

// §3.1: a parameter sent without a value counts as omitted.
func TestD03aEmptyParameterIsOmitted(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	empty := url.Values{}
	for _, name := range []string{"scope", "nonce", "code_challenge", "code_challenge_method", "max_age", "login_hint", "id_token_hint", "qr_image", "dpop_jkt", "resource", "binding_message"} {
		empty.Set(name, "")
	}
	got := openQR(t, s, "tv", empty).record()
	want := openQR(t, s, "tv", url.Values{"scope": {}}).record()
	volatile := cmpopts.IgnoreFields(storage.QRSession{}, "ID", "DeviceCodeHash", "UserCodeHash", "UserCodeSealed")
	if diff := cmp.Diff(want, got, volatile, cmpopts.IgnoreUnexported(storage.QRSession{})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"openid"}, got.Scopes); diff != "" {
		t.Errorf("without a scope: %s", diff)
	}
	// An empty required parameter is a missing one.
	c := tryOpenQR(t, s, "cli", url.Values{"code_challenge": {""}})
	wantRefusal(t, c.opened, http.StatusBadRequest, "invalid_request")
}

// §3.1: unknown parameters are ignored, and so are values that only the server makes.
func TestD03bUnknownParametersAreIgnored(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	first := openQR(t, s, "cli", nil)
	c := openQR(t, s, "cli", url.Values{
		"foo": {"bar"}, "ui_locales": {"de"}, "user_code": {first.userCode()}, "device_code": {first.deviceCode()},
		"txn_ref": {first.id.String()}, "interval": {"1"}, "expires_in": {"86400"}, "check_code": {"42"},
	})
	if c.deviceCode() == first.deviceCode() || c.userCode() == first.userCode() || c.id == first.id {
		t.Error("the client chose a value of the server's")
	}
	if got := c.opened.JSON()["expires_in"]; got != 240.0 {
		t.Errorf("expires_in = %v", got)
	}
	if reply := c.post(t.Context(), "/token", mergeForm(c.tokenForm(), url.Values{"foo": {"bar"}}), nil); reply.Text("error") != "authorization_pending" {
		t.Errorf("poll: %s", reply.Body)
	}
}

// §3.1: a parameter sent twice is refused, whether it is known or not.
func TestD03cRepeatedParametersAreRefused(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c := openQR(t, s, "tv", nil)
	before := c.record()
	for _, name := range []string{"client_id", "scope", "device_code", "grant_type", "code_verifier", "unknown"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, path := range []string{"/device_authorization", "/token", "/qr/cancel"} {
				form := c.tokenForm()
				form.Set("client_id", "tv")
				form[name] = []string{form.Get(name) + "x", form.Get(name) + "x"}
				wantRefusal(t, s.Post(t.Context(), s.Client(), path, form), http.StatusBadRequest, "invalid_request")
			}
		})
	}
	t.Cleanup(func() { wantUnchanged(t, before, c.record()) })
}

func mergeForm(forms ...url.Values) url.Values {
	all := url.Values{}
	for _, form := range forms {
		for name, values := range form {
			all[name] = values
		}
	}
	return all
}

// §3.1: parameters come in the body of a POST; those of the query are not read.
func TestD04ParametersComeInTheBody(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c := openQR(t, s, "tv", nil)
	query := "?" + mergeForm(c.tokenForm(), url.Values{"client_id": {"tv"}, "scope": {"openid"}}).Encode()
	for _, path := range []string{"/device_authorization", "/token", "/qr/cancel"} {
		code := "invalid_client"
		if path == "/token" {
			code = "invalid_request" // the grant_type is missing, which is looked at first
		}
		reply := s.Post(t.Context(), s.Client(), path+query, url.Values{})
		if reply.Text("error") != code {
			t.Errorf("%s with a query: %d %s", path, reply.Status, reply.Body)
		}
	}
	// Beside a complete body the query changes nothing.
	query = "?" + url.Values{"scope": {"admin"}, "device_code": {"other"}}.Encode()
	if reply := s.Post(t.Context(), s.Client(), "/device_authorization"+query, url.Values{"client_id": {"tv"}}); reply.Status != http.StatusOK {
		t.Errorf("opening: %d %s", reply.Status, reply.Body)
	}
	if reply := c.post(t.Context(), "/token"+query, c.tokenForm(), nil); reply.Text("error") != "authorization_pending" {
		t.Errorf("poll: %d %s", reply.Status, reply.Body)
	}
	for _, path := range []string{"/device_authorization", "/token"} {
		if reply := s.Get(t.Context(), s.Client(), path+query); reply.Status != http.StatusMethodNotAllowed || reply.Header.Get("Allow") != "POST" {
			t.Errorf("GET %s: %d, Allow %q", path, reply.Status, reply.Header.Get("Allow"))
		}
	}
}

// §3.2: the answer, its types, and that nobody caches it.
func TestD05DeviceAuthorizationResponse(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	for client, want := range map[string]struct {
		expires float64
		members []string
	}{
		"tv":  {600, []string{"device_code", "expires_in", "interval", "user_code", "verification_uri", "verification_uri_complete"}},
		"cli": {240, []string{"device_code", "expires_in", "interval", "qr", "user_code", "verification_uri"}},
	} {
		reply := openQR(t, s, client, nil).opened
		var members []string
		for name := range reply.JSON() {
			members = append(members, name)
		}
		slices.Sort(members)
		if diff := cmp.Diff(want.members, members); diff != "" {
			t.Errorf("%s: %s", client, diff)
		}
		got := []any{reply.JSON()["expires_in"], reply.JSON()["interval"], reply.Header.Get("Content-Type"), reply.Header.Get("Cache-Control")}
		if diff := cmp.Diff([]any{want.expires, 5.0, "application/json", "no-store"}, got); diff != "" {
			t.Errorf("%s: %s", client, diff)
		}
		if code := reply.Text("user_code"); !regexp.MustCompile(`^[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}$`).MatchString(code) {
			t.Errorf("user_code = %q", code)
		}
	}
}

// §3.2: errors are those of RFC 6749 §5.2.
func TestD06DeviceAuthorizationErrors(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Clients: []*storage.Client{
		{ID: "off", GrantTypes: []string{qr.DeviceGrantType}, Scopes: []string{"openid"}},
		{ID: "both", GrantTypes: []string{qr.DeviceGrantType, qr.GrantType}, Scopes: []string{"openid"}, QR: storage.QRPolicy{Enabled: true}},
		{ID: "disabled", GrantTypes: []string{qr.DeviceGrantType}, Scopes: []string{"openid"}, QR: storage.QRPolicy{Enabled: true}, Disabled: true},
		{ID: "hasty", GrantTypes: []string{qr.DeviceGrantType}, Scopes: []string{"openid"}, QR: storage.QRPolicy{Enabled: true, Lifetime: 119 * time.Second}},
	}})
	for _, row := range []struct {
		name, client string
		extra        url.Values
		status       int
		code         string
	}{
		{"a client of other grants", "web", nil, 400, "unauthorized_client"},
		{"a client whose policy is off", "off", nil, 400, "unauthorized_client"},
		{"a client of both grants", "both", nil, 400, "unauthorized_client"},
		{"a disabled client", "disabled", nil, 401, "invalid_client"},
		{"a client configured to a lifetime under 120 s", "hasty", nil, 500, "server_error"},
		{"a scope the client has not", "tv", url.Values{"scope": {"openid reports:read"}}, 400, "invalid_scope"},
		{"a scope of the grant itself", "tv", url.Values{"scope": {"openid " + qr.ApproveScope}}, 400, "invalid_scope"},
		{"a QR grant without a challenge, which the server's policy asks for", "cli", url.Values{"code_challenge": {""}, "code_challenge_method": {""}}, 400, "invalid_request"},
		{"the plain challenge method", "cli", url.Values{"code_challenge_method": {"plain"}}, 400, "invalid_request"},
		{"a challenge without a method, which means plain", "tv", url.Values{"code_challenge": {strings.Repeat("a", 43)}}, 400, "invalid_request"},
		{"a challenge that is no hash", "tv", url.Values{"code_challenge": {"short"}, "code_challenge_method": {"S256"}}, 400, "invalid_request"},
		{"a method without a challenge", "tv", url.Values{"code_challenge_method": {"S256"}}, 400, "invalid_request"},
		{"a max_age that is no number", "tv", url.Values{"max_age": {"soon"}}, 400, "invalid_request"},
		{"a negative max_age", "tv", url.Values{"max_age": {"-1"}}, 400, "invalid_request"},
		{"an unknown picture", "cli", url.Values{"qr_image": {"gif"}}, 400, "invalid_request"},
		{"a binding message of 65 characters", "tv", url.Values{"binding_message": {strings.Repeat("é", 65)}}, 400, "invalid_request"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			extra := row.extra
			if extra == nil {
				extra = url.Values{"scope": {"openid"}}
			}
			wantRefusal(t, tryOpenQR(t, s, row.client, extra).opened, row.status, row.code)
		})
	}
}

// §3.3: the verification URI is short and does not hold the user code.
func TestD07VerificationURI(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	c := openQR(t, s, "tv", nil)
	if diff := cmp.Diff(s.Issuer+"/device", c.opened.Text("verification_uri")); diff != "" {
		t.Error(diff)
	}
	if path := strings.TrimPrefix(c.opened.Text("verification_uri"), s.Issuer); len(path) > 8 || strings.Contains(path, c.userCode()) {
		t.Errorf("verification_uri ends in %q", path)
	}
	if diff := cmp.Diff(s.Issuer+"/device?user_code="+c.userCode(), c.opened.Text("verification_uri_complete")); diff != "" {
		t.Error(diff)
	}
	// The QR grant has no static link, which could be mailed.
	if cli := openQR(t, s, "cli", nil); cli.opened.JSON()["verification_uri_complete"] != nil {
		t.Error("the QR grant hands out a static link")
	}
}

// claimCard opens /device in a browser that is signed in as Alice and claims the session.
func claimCard(t *testing.T, s *providertest.Server, browser *http.Client, c *consumption) *providertest.Reply {
	t.Helper()
	page := s.Get(t.Context(), browser, "/device")
	if page.Hidden("next") == "" {
		t.Fatalf("/device before signing in: %d %s", page.Status, page.Body)
	}
	next := s.SignIn(t.Context(), browser, page).Header.Get("Location")
	form := s.Get(t.Context(), browser, s.HTTP.URL+next)
	card := s.Post(t.Context(), browser, "/device", url.Values{"csrf": {form.Hidden("csrf")}, "step": {"claim"}, "user_code": {strings.ToLower(c.userCode())}})
	if card.Status != http.StatusOK || card.Hidden("card") == "" {
		t.Fatalf("no approval card: %d %s", card.Status, card.Body)
	}
	return card
}

// §3.3: the person signs in, and can approve or deny.
func TestD08PersonSignsInAndDecides(t *testing.T) {
	t.Parallel()
	for decision, want := range map[string]string{"approve": "", "deny": "access_denied", "report": "access_denied"} {
		t.Run(decision, func(t *testing.T) {
			t.Parallel()
			s := providertest.NewServer(t, providertest.Options{})
			c := openQR(t, s, "tv", nil)
			browser := s.Browser()
			card := claimCard(t, s, browser, c)
			if !strings.Contains(card.Body, c.userCode()) || !strings.Contains(card.Body, "Living Room TV") {
				t.Errorf("the card shows neither code nor client: %s", card.Body)
			}
			if deny, approve := strings.Index(card.Body, `value="deny"`), strings.Index(card.Body, `value="approve"`); deny < 0 || approve < deny {
				t.Error("deny does not come first")
			}
			result := s.Post(t.Context(), browser, "/device", url.Values{
				"csrf": {card.Hidden("csrf")}, "step": {"decide"}, "card": {card.Hidden("card")}, "decision": {decision},
			})
			if result.Status != http.StatusOK {
				t.Fatalf("decision: %d %s", result.Status, result.Body)
			}
			if reply := c.poll(t.Context()); reply.Text("error") != want {
				t.Errorf("poll after %s: %d %s", decision, reply.Status, reply.Body)
			}
		})
	}
}

// §3.3.1: with the complete URI the person still sees the code and acts; a GET never moves a
// session.
func TestD10GETHasNoSideEffect(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	tv, cli := openQR(t, s, "tv", nil), openQR(t, s, "cli", nil)
	before, beforeQR := tv.record(), cli.record()
	browser := s.Browser()
	complete := tv.opened.Text("verification_uri_complete")
	page := s.Get(t.Context(), browser, complete)
	back := s.SignIn(t.Context(), browser, page)
	form := s.Get(t.Context(), browser, s.HTTP.URL+back.Header.Get("Location"))
	if form.Hidden("csrf") == "" || !strings.Contains(form.Body, tv.userCode()) {
		t.Errorf("after signing in: %d %s", form.Status, form.Body)
	}
	for _, c := range []*http.Client{s.Client(), browser} {
		for _, path := range []string{complete, "/device?step=decide&decision=approve&user_code=" + tv.userCode(), "/Q", "/Q?user_code=" + cli.userCode(), payload(cli.opened)} {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				req, err := http.NewRequestWithContext(t.Context(), method, s.URL(path), nil)
				if err != nil {
					t.Fatal(err)
				}
				s.Do(c, req)
			}
		}
	}
	wantUnchanged(t, before, tv.record())
	wantUnchanged(t, beforeQR, cli.record())
	// The code alone, without the form's token, does not move it either.
	reply := s.Post(t.Context(), browser, "/device", url.Values{"step": {"claim"}, "user_code": {tv.userCode()}})
	if reply.Status != http.StatusForbidden {
		t.Errorf("a claim without the form's token: %d", reply.Status)
	}
	wantUnchanged(t, before, tv.record())
}

// §4: discovery names the endpoint, the grant types and the challenge methods.
func TestD20Discovery(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Path: "/id"})
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"} {
		var document struct {
			Endpoint   string   `json:"device_authorization_endpoint"`
			GrantTypes []string `json:"grant_types_supported"`
			Methods    []string `json:"code_challenge_methods_supported"`
		}
		if err := json.Unmarshal([]byte(s.Get(t.Context(), s.Client(), path).Body), &document); err != nil {
			t.Fatal(err)
		}
		if document.Endpoint != s.Issuer+"/device_authorization" || !cmp.Equal(document.Methods, []string{"S256"}) ||
			!slices.Contains(document.GrantTypes, qr.DeviceGrantType) || !slices.Contains(document.GrantTypes, qr.GrantType) {
			t.Errorf("%s: %+v", path, document)
		}
	}
	want := map[string]any{
		"issuer": s.Issuer, "scan_endpoint": s.Issuer + "/qr/scan", "decision_endpoint": s.Issuer + "/qr/decision",
		"cancel_endpoint": s.Issuer + "/qr/cancel", "sessions_endpoint": s.Issuer + "/sessions", "events_endpoint": s.Issuer + "/qr/events",
		"websocket_endpoint": "wss" + strings.TrimPrefix(s.Issuer, "https") + "/qr/ws", "payload_prefix": s.Issuer + "/Q#1", "frame_seconds": 10.0,
	}
	if diff := cmp.Diff(want, s.Get(t.Context(), s.Client(), "/.well-known/qr-configuration").JSON()); diff != "" {
		t.Error(diff)
	}
	// What the document says is true under a path too.
	if _, tokens := signIn(t, s, "cli", nil); tokens.IDToken == "" {
		t.Error("no ID token")
	}
}

// longTokens keeps phones signed in while the clock of a test runs through lifetimes.
func longTokens(c *provider.Config) { c.AccessTokenLifetime = 6 * time.Hour }
