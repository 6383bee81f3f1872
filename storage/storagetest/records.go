package storagetest

import (
	"slices"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

func recordTests() map[string]func(*testing.T, Open) {
	return map[string]func(*testing.T, Open){
		"a user comes back as it was stored":             userRoundTrip,
		"users are listed by subject":                    usersListed,
		"a login is unique in any case":                  loginUnique,
		"a changed login frees the old one":              loginFreed,
		"keys are listed oldest first and never replace": keysListed,
		"a key is replaced and removed by its id":        keysReplaced,
		"audit rows are paged in order of time":          eventsPaged,
		"records that do not exist are not found":        notFound,
		"a caller may change what it gave and got":       recordCopies,
	}
}

func usersListed(t *testing.T, open Open) {
	s, _ := open(t)
	for _, subject := range []string{"b", "c", "a"} {
		if err := s.PutUser(t.Context(), &storage.User{Subject: subject, Login: "login of " + subject}); err != nil {
			t.Fatalf("PutUser: %v", err)
		}
	}
	users, err := s.Users(t.Context())
	wantErr(t, err, nil)
	var got []string
	for _, u := range users {
		got = append(got, u.Subject+", "+u.Login)
	}
	wantEqual(t, got, []string{"a, login of a", "b, login of b", "c, login of c"})
}

func userRoundTrip(t *testing.T, open Open) {
	s, _ := open(t)
	want := &storage.User{
		Subject: "ann", Login: "Ann@Example", PasswordHash: "$argon2id$…", Disabled: true,
		Claims: map[string]any{
			"name": "Ann Ärmel", "email_verified": true, "groups": []any{"a", "b"},
			"address": map[string]any{"country": "DE"},
		},
	}
	if err := s.PutUser(t.Context(), want); err != nil {
		t.Fatalf("PutUser: %v", err)
	}
	got, err := s.User(t.Context(), "ann")
	wantErr(t, err, nil)
	wantEqual(t, got, want)
	got, err = s.UserByLogin(t.Context(), "aNN@eXAMPLE")
	wantErr(t, err, nil)
	wantEqual(t, got, want)
}

func loginUnique(t *testing.T, open Open) {
	s, _ := open(t)
	wantErr(t, s.PutUser(t.Context(), &storage.User{Subject: "1", Login: "ann"}), nil)
	wantErr(t, s.PutUser(t.Context(), &storage.User{Subject: "2", Login: "ANN"}), storage.ErrConflict)
	_, err := s.User(t.Context(), "2")
	wantErr(t, err, storage.ErrNotFound)
	wantErr(t, s.PutUser(t.Context(), &storage.User{Subject: "1", Login: "Ann"}), nil)
}

func loginFreed(t *testing.T, open Open) {
	s, _ := open(t)
	wantErr(t, s.PutUser(t.Context(), &storage.User{Subject: "1", Login: "ann"}), nil)
	wantErr(t, s.PutUser(t.Context(), &storage.User{Subject: "1", Login: "anna"}), nil)
	_, err := s.UserByLogin(t.Context(), "ann")
	wantErr(t, err, storage.ErrNotFound)
	wantErr(t, s.PutUser(t.Context(), &storage.User{Subject: "2", Login: "ann"}), nil)
}

func keysReplaced(t *testing.T, open Open) {
	s, reopen := open(t)
	key := &storage.Key{ID: "a", Use: storage.KeySigning, Algorithm: "ES256", Secret: []byte{1}, CreatedAt: opened()}
	wantErr(t, s.ReplaceKey(t.Context(), key), storage.ErrNotFound)
	wantErr(t, s.PutKey(t.Context(), key), nil)
	key.Secret, key.SealedBy, key.ActiveFrom = []byte{2}, "seal", after(time.Hour)
	wantErr(t, s.ReplaceKey(t.Context(), key), nil)
	s = reopen()
	keys, err := s.Keys(t.Context())
	wantErr(t, err, nil)
	wantEqual(t, keys, []*storage.Key{key})
	for range 2 {
		wantErr(t, s.DeleteKey(t.Context(), "a"), nil)
	}
	keys, err = s.Keys(t.Context())
	wantErr(t, err, nil)
	wantEqual(t, len(keys), 0)
}

func keysListed(t *testing.T, open Open) {
	s, _ := open(t)
	young := &storage.Key{ID: "a", Use: storage.KeySigning, Algorithm: "ES256", Secret: []byte{1}, CreatedAt: after(time.Hour)}
	old := &storage.Key{ID: "b", Use: storage.KeyServer, Secret: []byte{2}, CreatedAt: opened()}
	wantErr(t, s.PutKey(t.Context(), young), nil)
	wantErr(t, s.PutKey(t.Context(), old), nil)
	wantErr(t, s.PutKey(t.Context(), &storage.Key{ID: "a", Secret: []byte{3}}), storage.ErrConflict)
	keys, err := s.Keys(t.Context())
	wantErr(t, err, nil)
	wantEqual(t, keys, []*storage.Key{old, young})
}

func eventsPaged(t *testing.T, open Open) {
	s, reopen := open(t)
	var want []storage.AuditEvent
	for i := range 20 {
		want = append(want, storage.AuditEvent{
			At: after(time.Duration(i/2) * time.Second), Type: storage.EventQRFrameRejected, QRSession: "h",
			ClientID: "tv", Subject: "ann", ApproverID: "app", SessionID: "sid", Detail: string(rune('a' + i)),
		})
	}
	for _, e := range want {
		s.RecordEvent(t.Context(), e)
	}
	// Closing waits for the rows that are written behind.
	s = reopen()
	var got []storage.AuditEvent
	var from []byte
	for range 7 {
		rows, next, err := s.Events(t.Context(), from, 3)
		wantErr(t, err, nil)
		got, from = append(got, rows...), next
	}
	rows, next, err := s.Events(t.Context(), from, 3)
	wantErr(t, err, nil)
	if len(rows) != 0 || !slices.Equal(next, from) {
		t.Errorf("after the last row: %d rows, key %x; want none and %x", len(rows), next, from)
	}
	wantEqual(t, got, want)
}

func notFound(t *testing.T, open Open) {
	s, _ := open(t)
	ctx := t.Context()
	calls := map[string]func() error{
		"QRSession":           func() error { _, err := s.QRSession(ctx, storage.QRID{9}); return err },
		"QRSessionByUserCode": func() error { _, err := s.QRSessionByUserCode(ctx, storage.UserCodeHash{9}); return err },
		"UpdateQRSession": func() error {
			return s.UpdateQRSession(ctx, storage.QRID{9}, func(*storage.QRSession) error { return nil })
		},
		"Token":    func() error { _, err := s.Token(ctx, storage.TokenCode, digest(9)); return err },
		"UseToken": func() error { return s.UseToken(ctx, storage.TokenCode, digest(9), opened()) },
		"UpdateToken": func() error {
			return s.UpdateToken(ctx, storage.TokenCode, digest(9), func(*storage.Token) error { return nil })
		},
		"Client":      func() error { _, err := s.Client(ctx, "x"); return err },
		"empty id":    func() error { _, err := s.Client(ctx, ""); return err },
		"User":        func() error { _, err := s.User(ctx, "x"); return err },
		"UserByLogin": func() error { _, err := s.UserByLogin(ctx, "x"); return err },
		"Session":     func() error { _, err := s.Session(ctx, "x"); return err },
		"EndSession":  func() error { return s.EndSession(ctx, "x", opened()) },
		"UpdateLogoutNotice": func() error {
			return s.UpdateLogoutNotice(ctx, "x", "x", func(*storage.LogoutNotice) error { return nil })
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) { wantErr(t, call(), storage.ErrNotFound) })
	}
}

func recordCopies(t *testing.T, open Open) {
	s, _ := open(t)
	given := &storage.Client{ID: "c", Scopes: []string{"openid"}}
	user := &storage.User{Subject: "u", Login: "u", Claims: map[string]any{"name": "Ann"}}
	tok := token(storage.TokenCode, 1)
	wantErr(t, s.PutClient(t.Context(), given), nil)
	wantErr(t, s.PutUser(t.Context(), user), nil)
	putToken(t, s, tok)
	given.Scopes[0], user.Claims["name"], tok.Data[0] = "changed", "changed", 'X'
	for range 2 {
		c, err := s.Client(t.Context(), "c")
		wantErr(t, err, nil)
		wantEqual(t, c.Scopes, []string{"openid"})
		c.Scopes[0] = "changed"
		u, err := s.User(t.Context(), "u")
		wantErr(t, err, nil)
		wantEqual(t, u.Claims, map[string]any{"name": "Ann"})
		u.Claims["name"] = "changed"
		got, err := s.Token(t.Context(), tok.Kind, tok.Signature)
		wantErr(t, err, nil)
		wantEqual(t, string(got.Data), "data")
		got.Data[0] = 'X'
	}
}
