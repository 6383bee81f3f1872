package phoneapp_test

import (
	"io"
	"strings"
	"testing"

	"github.com/qrgrant/qrgrant/examples/mobile/phoneapp"
)

// Only a page that is named may put the application into a frame, and only that one is listened to.
func TestFrameAncestor(t *testing.T) {
	t.Parallel()
	const outer = "http://127.0.0.1:8083"
	read := func(ancestor string) (policy, page string) {
		h, err := (&phoneapp.App{Issuer: "https://id.example/op", ClientID: "mobile", URL: own, FrameAncestor: ancestor}).Handler()
		if err != nil {
			t.Fatal(err)
		}
		reply := get(t, h, "/")
		body, err := io.ReadAll(reply.Body)
		if err != nil {
			t.Fatal(err)
		}
		return reply.Header.Get("Content-Security-Policy"), string(body)
	}
	if policy, page := read(""); !strings.Contains(policy, "frame-ancestors 'none';") || strings.Contains(page, "data-outer") {
		t.Errorf("nobody is named: %s\n%s", policy, page)
	}
	if policy, page := read(outer); !strings.Contains(policy, "frame-ancestors "+outer+";") || !strings.Contains(page, `data-outer="`+outer+`"`) {
		t.Errorf("%s is named: %s\n%s", outer, policy, page)
	}
	for _, wrong := range []string{"*", "'self'", outer + "/", outer + "/page", outer + "; script-src *", "127.0.0.1"} {
		if _, err := (&phoneapp.App{Issuer: own, ClientID: "mobile", URL: own, FrameAncestor: wrong}).Handler(); err == nil {
			t.Errorf("%q is accepted", wrong)
		}
	}
}
