package storagetest

import (
	"testing"

	"github.com/qrgrant/qrgrant/storage"
)

func consentTests() map[string]func(*testing.T, Open) {
	return map[string]func(*testing.T, Open){
		"a consent comes back as it was stored":              consentRoundTrip,
		"a consent is one person's for one client":           consentApart,
		"a consent survives a restart until it is forgotten": consentForgotten,
	}
}

func consent(subject, client string, scopes ...string) *storage.Consent {
	return &storage.Consent{Subject: subject, ClientID: client, Scopes: scopes, At: opened()}
}

func consentRoundTrip(t *testing.T, open Open) {
	s, _ := open(t)
	for _, want := range []*storage.Consent{consent("ann", "web", "openid", "email"), consent("ann", "bare"), consent("ann", "web", "openid")} {
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
