package storagetest

import (
	"context"
	"testing"

	"github.com/qrgrant/qrgrant/storage"
)

func consentTests() map[string]func(*testing.T, Open) {
	return map[string]func(*testing.T, Open){
		"a consent comes back as it was stored":              consentRoundTrip,
		"a consent is one person's for one client":           consentApart,
		"a person's consents are listed by client":           consentsListed,
		"a consent survives a restart until it is forgotten": consentForgotten,
	}
}

func consent(subject, client string, scopes ...string) *storage.Consent {
	return &storage.Consent{Subject: subject, ClientID: client, Scopes: scopes, At: opened()}
}

func consentRoundTrip(t *testing.T, open Open) {
	s, _ := open(t)
	forResources := consent("ann", "shop", "openid")
	forResources.Resources = []string{"https://api.example/v1", "https://other.example/"}
	for _, want := range []*storage.Consent{consent("ann", "web", "openid", "email"), consent("ann", "bare"), forResources, consent("ann", "web", "openid")} {
		wantErr(t, s.PutConsent(t.Context(), want), nil)
		got, err := s.Consent(t.Context(), "ann", want.ClientID)
		wantErr(t, err, nil)
		wantEqual(t, got, want)
	}
}

func consentApart(t *testing.T, open Open) {
	s, _ := open(t)
	wantErr(t, s.PutConsent(t.Context(), consent("ann", "web", "openid")), nil)
	wantErr(t, s.PutConsent(t.Context(), consent("ann", "shop", "email")), nil)
	// Neighbours must not trade bytes.
	for _, pair := range [][2]string{{"annw", "eb"}, {"an", "nweb"}, {"", "annweb"}, {"web", "ann"}, {"bob", "web"}, {"ann", ""}} {
		_, err := s.Consent(t.Context(), pair[0], pair[1])
		wantErr(t, err, storage.ErrNotFound)
	}
	got, err := s.Consent(t.Context(), "ann", "shop")
	wantErr(t, err, nil)
	wantEqual(t, got.Scopes, []string{"email"})
}

func consentsListed(t *testing.T, open Open) {
	s, reopen := open(t)
	// Subjects of which one begins with the other, and with the other's client.
	for _, c := range []*storage.Consent{
		consent("ann", "web", "openid"), consent("ann", "shop", "email"), consent("annw", "eb"), consent("an", "nshop"), consent("bob", "web"),
	} {
		wantErr(t, s.PutConsent(t.Context(), c), nil)
	}
	s = reopen()
	got, err := s.ConsentsBySubject(t.Context(), "ann")
	wantErr(t, err, nil)
	wantEqual(t, got, []*storage.Consent{consent("ann", "shop", "email"), consent("ann", "web", "openid")})

	wantErr(t, s.DeleteConsent(t.Context(), "ann", "shop"), nil)
	got, err = s.ConsentsBySubject(t.Context(), "ann")
	wantErr(t, err, nil)
	wantEqual(t, got, []*storage.Consent{consent("ann", "web", "openid")})
	for _, nobody := range []string{"", "a", "web"} {
		got, err := s.ConsentsBySubject(t.Context(), nobody)
		wantErr(t, err, nil)
		wantEqual(t, len(got), 0)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.ConsentsBySubject(ctx, "ann")
	wantErr(t, err, context.Canceled)
}

func consentForgotten(t *testing.T, open Open) {
	s, reopen := open(t)
	wantErr(t, s.PutConsent(t.Context(), consent("ann", "web", "openid")), nil)
	wantErr(t, s.PutConsent(t.Context(), consent("ann", "shop", "openid")), nil)
	s = reopen()
	for range 2 {
		wantErr(t, s.DeleteConsent(t.Context(), "ann", "web"), nil)
	}
	_, err := s.Consent(t.Context(), "ann", "web")
	wantErr(t, err, storage.ErrNotFound)
	_, err = s.Consent(t.Context(), "ann", "shop")
	wantErr(t, err, nil)
}
