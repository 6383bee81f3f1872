package provider_test

import (
	"net/url"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider/providertest"
)

// What a client wants to be so and cannot be is a refusal, never a wish that is overlooked, and
// two wishes at once are both meant (OpenID Connect Core §5.5.1).
func TestClaimValuesThatCannotBeMet(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	s.SignedIn(t.Context(), browser, "web", "openid")
	const me, password = `"` + providertest.AliceSubject + `"`, `"urn:qrgrant:acr:password"`
	for name, test := range map[string]struct {
		claims string
		met    bool
	}{
		"my own sub":                          {`{"id_token":{"sub":{"value":` + me + `}}}`, true},
		"sub without a wish":                  {`{"id_token":{"sub":null},"userinfo":{"sub":{"essential":true}}}`, true},
		"one of several subs":                 {`{"id_token":{"sub":{"values":["bob",` + me + `,7]}}}`, true},
		"another's sub":                       {`{"id_token":{"sub":{"value":"bob"}}}`, false},
		"a number for a sub":                  {`{"id_token":{"sub":{"value":1}}}`, false},
		"an object for a sub":                 {`{"userinfo":{"sub":{"value":{}}}}`, false},
		"numbers for subs":                    {`{"id_token":{"sub":{"values":[1,2]}}}`, false},
		"none of no subs":                     {`{"id_token":{"sub":{"values":[]}}}`, false},
		"subs that contradict each other":     {`{"id_token":{"sub":{"value":` + me + `}},"userinfo":{"sub":{"value":"bob"}}}`, false},
		"value and values that contradict":    {`{"id_token":{"sub":{"value":` + me + `,"values":["bob"]}}}`, false},
		"value and values that agree":         {`{"id_token":{"sub":{"value":` + me + `,"values":["bob",` + me + `]}}}`, true},
		"our acr":                             {`{"id_token":{"acr":{"essential":true,"values":["x",` + password + `]}}}`, true},
		"a number for an essential acr":       {`{"id_token":{"acr":{"essential":true,"value":2}}}`, false},
		"nothing but null for essential acrs": {`{"id_token":{"acr":{"essential":true,"values":[null]}}}`, false},
		"a number for a voluntary acr":        {`{"id_token":{"acr":{"value":2}}}`, true},
	} {
		reply := ask(t, s, browser, "web", "prompt", "none", "claims", test.claims)
		got := reply.Location().Query()
		if met := got.Get("code") != ""; met != test.met || !met && got.Get("error") != "login_required" {
			t.Errorf("%s: %s", name, got.Encode())
		}
	}
}

func TestMaxAgeIsDigits(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	browser := s.Browser()
	s.SignedIn(t.Context(), browser, "web", "openid")
	s.Clock.Advance(time.Hour)
	for text, want := range map[string]string{
		"3000000000": "", "99999999999999999999999999": "", "0010000": "", "3600": "", "3599": "login_required", "0": "login_required",
		"+5": "invalid_request", "-1": "invalid_request", " 5": "invalid_request", "5.0": "invalid_request", "1e9": "invalid_request", "x": "invalid_request",
	} {
		if reply := ask(t, s, browser, "web", "prompt", "none", "max_age", text); errorOf(reply) != want || want == "" && reply.Location().Query().Get("code") == "" {
			t.Errorf("max_age=%q: %q, want %q", text, errorOf(reply), want)
		}
	}
}

// A parameter that was sent twice is a fault for the client to hear of, unless it is what says
// which client, and where it hears (RFC 6749 §3.1, §4.1.2.1).
func TestRepeatedParametersGoToTheClient(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{})
	_, challenge := providertest.Verifier()
	good := providertest.AuthorizeQuery("web", "openid", challenge)
	browser := s.Browser()
	s.SignedIn(t.Context(), browser, "web", "openid")
	for _, name := range []string{"scope", "response_type", "code_challenge", "nonce", "prompt", "unknown", "response_mode"} {
		for _, method := range []string{"GET", "POST"} {
			query := good.Encode() + "&" + name + "=x&" + name + "=y"
			reply := s.Get(t.Context(), browser, "/authorize?"+query)
			if method == "POST" {
				form, err := url.ParseQuery(query)
				if err != nil {
					t.Fatal(err)
				}
				moved := s.Post(t.Context(), browser, "/authorize", form)
				reply = s.Get(t.Context(), browser, moved.Header.Get("Location"))
			}
			got := reply.Location().Query()
			if got.Get("error") != "invalid_request" || got.Get("state") != "state-of-a-test" || got.Get("iss") != s.Issuer {
				t.Errorf("%s %s twice: %d %s", method, name, reply.Status, reply.Header.Get("Location"))
			}
		}
	}
	if got := s.Get(t.Context(), browser, "/authorize?"+good.Encode()+"&state=other").Location().Query(); got.Get("error") != "invalid_request" || got.Has("state") {
		t.Errorf("state twice: %s", got.Encode())
	}
	for _, name := range []string{"client_id", "redirect_uri"} {
		if reply := s.Get(t.Context(), browser, "/authorize?"+good.Encode()+"&"+name+"="+url.QueryEscape(good.Get(name))); reply.Status != 400 || reply.Header.Get("Location") != "" {
			t.Errorf("%s twice: %d %s", name, reply.Status, reply.Header.Get("Location"))
		}
	}
}
