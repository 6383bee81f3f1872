package player_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/player"
)

// script is a server that answers the polls one after the other from a list, and keeps when
// they came. It is a RoundTripper, so that the clock can be a test's.
type script struct {
	polls []func() (*http.Response, error)
	// device answers as to a client of the device grant.
	device bool
	start  time.Time
	// at is when each poll came, in seconds since the start.
	at []int
	// forms are what the polls sent.
	forms []url.Values
	// revoked are the tokens sent to the revocation endpoint.
	revoked []string
	// dpop lists DPoP in the metadata; proofs counts what was proved.
	dpop   bool
	proofs int
}

func (s *script) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := s.answer(req)
	if err == nil {
		res.Request = req
	}
	return res, err
}

func (s *script) answer(req *http.Request) (*http.Response, error) {
	s.proofs += len(req.Header.Values("DPoP"))
	more := ""
	if s.dpop {
		more = `,"dpop_signing_alg_values_supported":["ES256"]`
	}
	switch req.URL.Path {
	case "/.well-known/openid-configuration":
		return reply(200, `{"issuer":"`+issuer+`","token_endpoint":"`+issuer+`/token","device_authorization_endpoint":"`+issuer+`/device_authorization","revocation_endpoint":"`+issuer+`/revoke","jwks_uri":"`+issuer+`/jwks"`+more+`}`), nil
	case "/.well-known/qr-configuration":
		return reply(200, `{"issuer":"`+issuer+`","cancel_endpoint":"`+issuer+`/qr/cancel"}`), nil
	case "/device_authorization":
		return reply(200, s.opened()), nil
	case "/qr/cancel":
		return reply(200, `{}`), nil
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	if req.URL.Path == "/revoke" {
		s.revoked = append(s.revoked, form.Get("token"))
		return reply(200, ""), nil
	}
	s.forms = append(s.forms, form)
	s.at = append(s.at, int(time.Since(s.start)/time.Second))
	if len(s.polls) == 0 {
		return reply(400, `{"error":"invalid_grant"}`), nil
	}
	next := s.polls[0]
	s.polls = s.polls[1:]
	return next()
}

// opened is the answer to a client of the grant that the script plays.
func (s *script) opened() string {
	more := `"qr":{"payload":"` + issuer + `/Q#1A","rotate_in":10}`
	if s.device {
		more = `"verification_uri_complete":"` + issuer + `/device?user_code=BCDF-GHJK"`
	}
	return `{"device_code":"secret","user_code":"BCDF-GHJK","verification_uri":"` + issuer + `/device","expires_in":240,"interval":5,` + more + `}`
}

func reply(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

func answer(status int, body string, header ...string) func() (*http.Response, error) {
	return func() (*http.Response, error) {
		res := reply(status, body)
		for i := 0; i < len(header); i += 2 {
			res.Header.Set(header[i], header[i+1])
		}
		return res, nil
	}
}

// held answers after d, as a long poll does.
func held(d time.Duration, body string) func() (*http.Response, error) {
	return func() (*http.Response, error) {
		timer := time.NewTimer(d)
		<-timer.C
		return answer(400, body, "Preference-Applied", "wait=25")()
	}
}

func lost() (*http.Response, error) { return nil, errors.New("connection reset") }

const tokens = `{"access_token":"a","token_type":"bearer","expires_in":600}`

// play opens an attempt with the script as its server and waits for the end.
func play(t *testing.T, s *script, grant string, show func(player.Update)) (*player.Tokens, error) {
	t.Helper()
	s.device = grant == player.GrantDevice
	device := &player.ConsumptionDevice{Issuer: issuer, ClientID: "cli", Grant: grant, Scopes: []string{"openid"}, HTTP: &http.Client{Transport: s}}
	attempt, err := device.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.start = time.Now()
	return attempt.Await(t.Context(), show)
}

func TestAwait(t *testing.T) {
	t.Parallel()
	pending := answer(400, `{"error":"authorization_pending","qr_status":"pending","qr_seq":1}`)
	tests := []struct {
		name  string
		grant string
		polls []func() (*http.Response, error)
		at    []int
		end   error
	}{
		{
			"polls that are not held keep the interval", player.GrantQR,
			[]func() (*http.Response, error){pending, pending, answer(200, tokens)},
			[]int{0, 5, 10},
			nil,
		},
		{
			"a held answer frees the next poll from the interval", player.GrantQR,
			[]func() (*http.Response, error){held(10*time.Second, `{"error":"authorization_pending","qr_seq":1}`), answer(200, tokens)},
			[]int{0, 10},
			nil,
		},
		{
			"the device grant waits before its first poll", player.GrantDevice,
			[]func() (*http.Response, error){pending, answer(200, tokens)},
			[]int{5, 10},
			nil,
		},
		{
			"slow_down adds five seconds for good", player.GrantQR,
			[]func() (*http.Response, error){answer(400, `{"error":"slow_down"}`), pending, answer(200, tokens)},
			[]int{0, 10, 20},
			nil,
		},
		{
			"lost connections are tried again with growing pauses", player.GrantQR,
			[]func() (*http.Response, error){lost, lost, lost, pending, lost, answer(200, tokens)},
			[]int{0, 1, 3, 7, 12, 13},
			nil,
		},
		{
			"a busy server is tried again when it says", player.GrantQR,
			[]func() (*http.Response, error){answer(503, "", "Retry-After", "7"), answer(502, "<html>"), answer(200, tokens)},
			[]int{0, 7, 9},
			nil,
		},
		{
			"access_denied is the end", player.GrantQR,
			[]func() (*http.Response, error){answer(400, `{"error":"access_denied"}`)},
			[]int{0},
			player.ErrDenied,
		},
		{
			"expired_token is the end", player.GrantQR,
			[]func() (*http.Response, error){pending, answer(400, `{"error":"expired_token"}`)},
			[]int{0, 5},
			player.ErrExpired,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &script{polls: test.polls}
				got, err := play(t, s, test.grant, func(player.Update) {})
				if !errors.Is(err, test.end) || (err == nil) != (got != nil) {
					t.Errorf("end %v, %v; want %v", got, err, test.end)
				}
				if diff := cmp.Diff(test.at, s.at); diff != "" {
					t.Errorf("polls came at (seconds):\n%s", diff)
				}
			})
		})
	}
}

func TestAwaitGivesUpWhenTheAttemptIsOverByItsOwnClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{}
		for range 100 {
			s.polls = append(s.polls, lost)
		}
		var gone *player.UnreachableError
		if _, err := play(t, s, player.GrantQR, func(player.Update) {}); !errors.As(err, &gone) {
			t.Fatalf("end %v, want unreachable", err)
		}
		if last := s.at[len(s.at)-1]; last < 240 || last > 240+125 {
			t.Errorf("the last try came after %d s", last)
		}
	})
}

func TestAwaitShowsEachFrameAndTheCheckCode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{polls: []func() (*http.Response, error){
			held(10*time.Second, `{"error":"authorization_pending","qr_status":"pending","qr_seq":1,"qr":{"payload":"second"}}`),
			held(time.Second, `{"error":"authorization_pending","qr_status":"scanned","qr_seq":2,"check_code":"42"}`),
			answer(200, tokens),
		}}
		var shown []string
		_, err := play(t, s, player.GrantQR, func(u player.Update) { shown = append(shown, u.Payload+u.CheckCode) })
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"second", "42"}, shown); diff != "" {
			t.Error(diff)
		}
		if seq := s.forms[2].Get("qr_seq"); seq != "2" {
			t.Errorf("the poll after the scan says qr_seq=%s, want 2", seq)
		}
		if s.forms[0].Get("code_verifier") == "" || s.forms[0].Get("qr_seq") != "1" {
			t.Errorf("the first poll is %v", s.forms[0])
		}
	})
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &script{polls: []func() (*http.Response, error){answer(400, `{"error":"authorization_pending"}`)}}
		device := &player.ConsumptionDevice{Issuer: issuer, ClientID: "cli", Grant: player.GrantQR, HTTP: &http.Client{Transport: s}}
		attempt, err := device.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if _, err := attempt.Await(ctx, func(player.Update) {}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("end %v", err)
		}
		if err := attempt.Cancel(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestOpenRefusesAClientOfTheOtherGrant(t *testing.T) {
	t.Parallel()
	device := &player.ConsumptionDevice{Issuer: issuer, ClientID: "cli", Grant: player.GrantDevice, HTTP: &http.Client{Transport: &script{}}}
	var mismatch *player.GrantMismatchError
	if _, err := device.Open(t.Context()); !errors.As(err, &mismatch) {
		t.Errorf("end %v, want a grant mismatch", err)
	}
}

func TestRevokeEndsTheSignIn(t *testing.T) {
	t.Parallel()
	s := &script{}
	device := &player.ConsumptionDevice{Issuer: issuer, ClientID: "cli", Grant: player.GrantQR, HTTP: &http.Client{Transport: s}}
	attempt, err := device.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := attempt.Revoke(t.Context(), &player.Tokens{AccessToken: "a"}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a"}, s.revoked); diff != "" {
		t.Error(diff)
	}
}
