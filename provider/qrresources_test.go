package provider_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

const otherAPI = "https://other.example/"

// forResources are clients that may ask for the two resources: a program, a television, and those
// of the shop.
func forResources() []*storage.Client {
	clients := append(providertest.Clients(), shopClients()...)
	clients = slices.DeleteFunc(clients, func(c *storage.Client) bool { return !slices.Contains([]string{"cli", "tv", "shop", "stranger"}, c.ID) })
	for _, c := range clients {
		c.Resources = []string{jwtAPI, otherAPI}
	}
	return clients
}

// wantResources checks the member resources of the context that a phone gets; nil wants none.
func wantResources(t *testing.T, what string, scan *providertest.Reply, want []any) {
	t.Helper()
	seen, _ := scan.JSON()["context"].(map[string]any)
	got, there := seen["resources"]
	if list, _ := got.([]any); scan.Status != http.StatusOK || there != (want != nil) || cmp.Diff(want, list) != "" {
		t.Errorf("%s: %d, resources %v, want %v: %s", what, scan.Status, got, want, scan.Body)
	}
}

// The person is told for which servers the tokens will be, at both grants, and by the page of
// those without the app; this server goes without saying.
func TestPhoneIsToldTheResources(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Clients: forResources(), Change: roomy})
	p, browser := newPhone(t, s), s.Browser()
	for name, row := range map[string]struct {
		asked []string
		want  []any
	}{
		"two":           {[]string{jwtAPI, otherAPI}, []any{jwtAPI, otherAPI}},
		"one twice":     {[]string{otherAPI, otherAPI}, []any{otherAPI}},
		"one beside us": {[]string{s.Issuer, jwtAPI}, []any{jwtAPI}},
		"nobody but us": {[]string{s.Issuer}, nil},
		"none":          {nil, nil},
	} {
		for _, client := range []string{"cli", "tv"} {
			form := url.Values{"resource": row.asked}
			scan, _ := openQR(t, s, client, form).claim(p)
			wantResources(t, client+", "+name, scan, row.want)
			card := deviceCard(t, s, browser, openQR(t, s, client, form).opened)
			if card.Hidden("card") == "" {
				t.Fatalf("no card: %d %s", card.Status, card.Body)
			}
			for _, resource := range []string{jwtAPI, otherAPI, s.Issuer} {
				if shown := strings.Contains(card.Body, "<li><code>"+resource+"</code></li>"); shown != slices.Contains(row.want, any(resource)) {
					t.Errorf("%s, %s: the card shows %s: %v", client, name, resource, shown)
				}
			}
		}
	}
}

// What the tokens are for is part of what was seen: no yes counts for anything else.
func TestResourcesAreInTheDigest(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Clients: forResources()})
	p := newPhone(t, s)
	c := openQR(t, s, "cli", url.Values{"resource": {jwtAPI}})
	scan, number := c.claim(p)
	become := func(audience ...string) {
		t.Helper()
		err := s.Store.UpdateQRSession(t.Context(), c.id, func(q *storage.QRSession) error {
			q.Audience, q.Version = audience, q.Version+1
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, audience := range [][]string{{jwtAPI, otherAPI}, {otherAPI}, nil} {
		become(audience...)
		wantError(t, p.decide(scan, "approve", number), http.StatusConflict, "context_changed")
	}
	become(jwtAPI)
	mustAnswer(t, p.decide(scan, "approve", number), http.StatusOK)
}

// Who reads on the phone what a sign-in is for is not asked again for that, and is for more.
func TestHostedResourcesAreRemembered(t *testing.T) {
	t.Parallel()
	s := providertest.NewServer(t, providertest.Options{Clients: forResources(), Change: roomy})
	p := newPhone(t, s)
	b := visit(t, s, s.Browser(), "stranger", "resource", jwtAPI)
	scan := p.scan(b.scanned(), "scanner")
	wantResources(t, "hosted", scan, []any{jwtAPI})
	mustAnswer(t, p.decide(scan, "approve", b.state().Text("check_code")), http.StatusOK)
	b.load()
	tokens := tokensOf(t, s.Redeem(t.Context(), "stranger", b.press("continue"), b.verifier))
	if diff := cmp.Diff([]string{jwtAPI}, audienceOf(t, s, "stranger", tokens.AccessToken)); diff != "" {
		t.Error(diff)
	}
	if again := visit(t, s, b.browser, "stranger", "resource", jwtAPI, "prompt", "none").page; again.Location().Query().Get("code") == "" {
		t.Errorf("the same again: %d %s", again.Status, again.Header.Get("Location"))
	}
	if more := visit(t, s, b.browser, "stranger", "resource", otherAPI).page; more.Hidden("request") == "" || !strings.Contains(more.Body, otherAPI) {
		t.Errorf("another: %d %s", more.Status, more.Header.Get("Location"))
	}
}
