package storagetest

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

func clientTests() map[string]func(*testing.T, Open) {
	return map[string]func(*testing.T, Open){
		"a client comes back as it was stored":                 clientRoundTrip,
		"every field of a client is kept":                      clientFields,
		"a caller may change every list of a client":           clientCopies,
		"clients are listed by id":                             clientsListed,
		"a removed client is gone":                             clientDeleted,
		"a client is removed with the unit of work or not":     clientDeletedInUnit,
		"a client that was removed can be stored once again":   clientStoredAgain,
		"no reader brings a client back that is being removed": clientDeletedRace,
		"a client is changed where it stands, or not at all":   clientUpdated,
		"a client is changed with the unit of work or not":     clientUpdatedInUnit,
		"no change of a client is lost among others":           clientUpdatedRace,
	}
}

// fullClient returns a client in which every field is set.
func fullClient() *storage.Client {
	age := int64(600)
	return &storage.Client{
		ID: "full", Name: "Fernseher 📺", SecretHashes: [][32]byte{digest(1), digest(2)},
		RedirectURIs: []string{"https://rp.example/cb"}, GrantTypes: []string{"authorization_code"},
		Scopes: []string{"openid"}, PKCEOptional: true, IDTokenAlg: "RS256", FirstParty: true,
		Approver: true, SharedAudiences: []string{"https://api.example"}, Disabled: true,
		PostLogoutRedirectURIs: []string{"https://rp.example/bye"}, BackchannelLogoutURI: "https://rp.example/logout",
		BackchannelLogoutSessionRequired: true,
		LogoURI:                          "https://rp.example/logo.png", ClientURI: "https://rp.example/",
		PolicyURI: "https://rp.example/privacy", TermsURI: "https://rp.example/terms",
		QR: storage.QRPolicy{
			Enabled: true, AllowedScopes: []string{"openid"}, Lifetime: 3 * time.Minute,
			TypeUserCode: true, OfflineAccess: true,
		},
		AuthMethod: storage.AuthPrivateKeyJWT, AuthAlg: "RS256", AssertionAudience: storage.AudienceEndpoint,
		JWKS: []byte(`{"keys":[]}`), JWKSURI: "https://rp.example/jwks.json", RequirePAR: true, RequireDPoP: true,
		JWTAccessTokens: true, Resources: []string{"https://api.example"}, Serves: []string{"https://own.example"},
		UserinfoAlg: "ES256", RequestObjectAlg: "EdDSA", RequestURIs: []string{"https://rp.example/request.jwt"},
		RequireRequestObject: true, ResponseTypes: []string{"code", "code id_token"}, ApplicationType: "native",
		Pairwise: true, Sector: "rp.example", SectorIdentifierURI: "https://rp.example/sector.json",
		InitiateLoginURI: "https://rp.example/begin", Contacts: []string{"ops@rp.example"},
		DefaultMaxAge: &age, DefaultACRValues: []string{"urn:example:loa:2"}, RequireAuthTime: true,
		Source: storage.ClientRegistered, RegistrationTokenHash: digest("registration"),
		CreatedAt: opened(), FreshUntil: after(time.Hour), SoftwareID: "4NRB1-0XZABZI9E6-5SM3R", SoftwareVersion: "2.1",
	}
}

func clientRoundTrip(t *testing.T, open Open) {
	s, reopen := open(t)
	wants := []*storage.Client{{ID: "bare"}, fullClient(), {ID: "large", Name: strings.Repeat("ä", 32<<10)}}
	for _, want := range wants {
		wantErr(t, s.PutClient(t.Context(), want), nil)
	}
	for range 2 {
		for _, want := range wants {
			for range 2 {
				got, err := s.Client(t.Context(), want.ID)
				wantErr(t, err, nil)
				wantEqual(t, got, want)
			}
		}
		s = reopen()
	}
	wantErr(t, s.PutClient(t.Context(), &storage.Client{ID: "bare", Name: "renamed"}), nil)
	got, err := s.Client(t.Context(), "bare")
	wantErr(t, err, nil)
	wantEqual(t, got, &storage.Client{ID: "bare", Name: "renamed"})
}

// clientFields stores one client for each field, in which only that field is set: a field that
// a driver forgets, or mixes up with another, is missing there. It also keeps fullClient full.
func clientFields(t *testing.T, open Open) {
	s, _ := open(t)
	full := reflect.ValueOf(fullClient()).Elem()
	for i := range full.NumField() {
		name := full.Type().Field(i).Name
		if full.Field(i).IsZero() {
			t.Errorf("fullClient leaves %s empty", name)
		}
		if name == "ID" {
			continue
		}
		want := &storage.Client{ID: "only " + name}
		reflect.ValueOf(want).Elem().Field(i).Set(full.Field(i))
		wantErr(t, s.PutClient(t.Context(), want), nil)
		got, err := s.Client(t.Context(), want.ID)
		wantErr(t, err, nil)
		wantEqual(t, got, want)
	}
}

// clientCopies overwrites whatever can be reached through a client that the store returned.
func clientCopies(t *testing.T, open Open) {
	s, _ := open(t)
	wantErr(t, s.PutClient(t.Context(), fullClient()), nil)
	for range 3 {
		got, err := s.Client(t.Context(), "full")
		wantErr(t, err, nil)
		wantEqual(t, got, fullClient())
		if n := spoil(reflect.ValueOf(got).Elem()); n < 15 {
			t.Errorf("only %d fields of a client lead elsewhere", n)
		}
	}
}

// spoil overwrites what the fields of a record share with others, and appends to its lists. It
// returns how many fields there are that could be shared.
func spoil(record reflect.Value) (n int) {
	for i := range record.NumField() {
		switch field := record.Field(i); {
		case field.Kind() == reflect.Slice:
			_ = reflect.Append(field, reflect.Zero(field.Type().Elem()))
			for j := range field.Len() {
				field.Index(j).SetZero()
			}
			n++
		case field.Kind() == reflect.Pointer:
			field.Elem().SetZero()
			n++
		case field.Type() == reflect.TypeFor[storage.QRPolicy]():
			n += spoil(field)
		}
	}
	return n
}

func clientsListed(t *testing.T, open Open) {
	s, _ := open(t)
	for _, id := range []string{"b", "c", "a"} {
		wantErr(t, s.PutClient(t.Context(), &storage.Client{ID: id}), nil)
	}
	wantEqual(t, clientIDs(t, s), []string{"a", "b", "c"})
}

func clientIDs(t *testing.T, s storage.Store) (ids []string) {
	t.Helper()
	clients, err := s.Clients(t.Context())
	wantErr(t, err, nil)
	for _, c := range clients {
		ids = append(ids, c.ID)
	}
	return ids
}

func clientDeleted(t *testing.T, open Open) {
	s, reopen := open(t)
	for _, id := range []string{"a", "ab", "b"} {
		wantErr(t, s.PutClient(t.Context(), &storage.Client{ID: id}), nil)
		_, err := s.Client(t.Context(), id)
		wantErr(t, err, nil)
	}
	for range 2 {
		wantErr(t, s.DeleteClient(t.Context(), "a"), nil)
		_, err := s.Client(t.Context(), "a")
		wantErr(t, err, storage.ErrNotFound)
	}
	wantErr(t, s.DeleteClient(t.Context(), "never there"), nil)
	wantEqual(t, clientIDs(t, s), []string{"ab", "b"})
	s = reopen()
	_, err := s.Client(t.Context(), "a")
	wantErr(t, err, storage.ErrNotFound)
	wantEqual(t, clientIDs(t, s), []string{"ab", "b"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantErr(t, s.DeleteClient(ctx, "b"), context.Canceled)
	wantEqual(t, clientIDs(t, s), []string{"ab", "b"})
}

func clientDeletedInUnit(t *testing.T, open Open) {
	s, _ := open(t)
	wantErr(t, s.PutClient(t.Context(), &storage.Client{ID: "a"}), nil)
	for _, end := range []error{errRollback, nil} {
		wantErr(t, s.Tx(t.Context(), func(ctx context.Context) error {
			wantErr(t, s.DeleteClient(ctx, "a"), nil)
			_, err := s.Client(ctx, "a")
			wantErr(t, err, nil)
			return end
		}), end)
		_, err := s.Client(t.Context(), "a")
		if (err == nil) != (end != nil) {
			t.Errorf("after a unit that returned %v: %v", end, err)
		}
	}
}

func clientStoredAgain(t *testing.T, open Open) {
	s, _ := open(t)
	for _, name := range []string{"first", "second"} {
		wantErr(t, s.PutClient(t.Context(), &storage.Client{ID: "a", Name: name}), nil)
		got, err := s.Client(t.Context(), "a")
		wantErr(t, err, nil)
		wantEqual(t, got.Name, name)
		wantErr(t, s.DeleteClient(t.Context(), "a"), nil)
	}
}

func clientDeletedRace(t *testing.T, open Open) {
	s, _ := open(t)
	for range 20 {
		wantErr(t, s.PutClient(t.Context(), &storage.Client{ID: "a"}), nil)
		race(8, func(i int) {
			if i == 0 {
				wantErr(t, s.DeleteClient(t.Context(), "a"), nil)
				_, err := s.Client(t.Context(), "a")
				wantErr(t, err, storage.ErrNotFound)
				return
			}
			for range 20 {
				_, _ = s.Client(t.Context(), "a")
			}
		})
		_, err := s.Client(t.Context(), "a")
		wantErr(t, err, storage.ErrNotFound)
	}
}

func clientUpdated(t *testing.T, open Open) {
	s, reopen := open(t)
	wantErr(t, s.PutClient(t.Context(), fullClient()), nil)
	_, err := s.Client(t.Context(), "full")
	wantErr(t, err, nil)
	wantErr(t, s.UpdateClient(t.Context(), "full", func(c *storage.Client) error {
		wantEqual(t, c, fullClient())
		c.Name, c.Disabled, c.FreshUntil = "renamed", false, time.Time{}
		return nil
	}), nil)
	want := fullClient()
	want.Name, want.Disabled, want.FreshUntil = "renamed", false, time.Time{}
	refuse := func(c *storage.Client) error {
		c.Name = "refused"
		return errRollback
	}
	wantErr(t, s.UpdateClient(t.Context(), "full", refuse), errRollback)
	wantErr(t, s.UpdateClient(t.Context(), "nobody", refuse), storage.ErrNotFound)
	wantEqual(t, clientIDs(t, s), []string{"full"})
	for range 2 {
		got, err := s.Client(t.Context(), "full")
		wantErr(t, err, nil)
		wantEqual(t, got, want)
		s = reopen()
	}
}

func clientUpdatedInUnit(t *testing.T, open Open) {
	s, _ := open(t)
	wantErr(t, s.PutClient(t.Context(), &storage.Client{ID: "a", Name: "before"}), nil)
	rename := func(from, to string) func(*storage.Client) error {
		return func(c *storage.Client) error {
			if c.Name != from {
				return storage.ErrConflict
			}
			c.Name = to
			return nil
		}
	}
	name := func() string {
		got, err := s.Client(t.Context(), "a")
		wantErr(t, err, nil)
		return got.Name
	}
	for _, end := range []error{errRollback, nil} {
		wantErr(t, s.Tx(t.Context(), func(ctx context.Context) error {
			wantErr(t, s.UpdateClient(ctx, "a", rename("before", "after")), nil)
			wantEqual(t, name(), "before")
			return end
		}), end)
	}
	wantEqual(t, name(), "after")
	// A unit whose change comes too late does nothing else either.
	wantErr(t, s.Tx(t.Context(), func(ctx context.Context) error {
		wantErr(t, s.UpdateClient(ctx, "a", rename("before", "late")), nil)
		wantErr(t, s.DeleteClient(ctx, "a"), nil)
		return nil
	}), storage.ErrConflict)
	wantEqual(t, name(), "after")
}

func clientUpdatedRace(t *testing.T, open Open) {
	s, _ := open(t)
	wantErr(t, s.PutClient(t.Context(), &storage.Client{ID: "a"}), nil)
	race(8, func(i int) {
		for range 10 {
			wantErr(t, s.UpdateClient(t.Context(), "a", func(c *storage.Client) error {
				c.Contacts = append(c.Contacts, string(rune('a'+i)))
				return nil
			}), nil)
		}
	})
	got, err := s.Client(t.Context(), "a")
	wantErr(t, err, nil)
	wantEqual(t, len(got.Contacts), 80)
}
