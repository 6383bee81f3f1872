package storagetest

import (
	"context"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

func sessionTests() map[string]func(*testing.T, Open) {
	return map[string]func(*testing.T, Open){
		"a sign-in comes back as it was stored":        signInRoundTrip,
		"sign-ins of a person are listed newest first": signInsListed,
		"a sign-in ends once":                          signInEnds,
		"a sign-in that changes hands is listed once":  signInMoves,
		"an ended sign-in is removed a day later":      signInSwept,
		"a sign-in's clients are kept until its sweep": signInClients,
	}
}

func signIn(id, subject string, at time.Duration) *storage.Session {
	return &storage.Session{
		ID: id, Subject: subject, CookieHash: digest("cookie", id), AuthTime: after(at), AMR: []string{"pwd"},
		CreatedAt: after(at), ExpiresAt: after(at + 8*time.Hour),
	}
}

func signInRoundTrip(t *testing.T, open Open) {
	s, _ := open(t)
	full := signIn("full", "ann", 0)
	full.QRBorn, full.ParentID, full.ClientID, full.ApproverID = true, "phone", "tv", "app"
	full.ACR, full.Device, full.EndedAt = "acr", "Firefox", after(time.Minute)
	for _, want := range []*storage.Session{full, {ID: "bare", Subject: "ann"}} {
		wantErr(t, s.PutSession(t.Context(), want), nil)
		got, err := s.Session(t.Context(), want.ID)
		wantErr(t, err, nil)
		wantEqual(t, got, want)
	}
}

func signInsListed(t *testing.T, open Open) {
	s, _ := open(t)
	for _, session := range []*storage.Session{
		signIn("1", "ann", 0), signIn("2", "ann", 2*time.Second), signIn("3", "ann", time.Second),
		signIn("4", "an", time.Second), signIn("5", "annn", time.Second),
	} {
		wantErr(t, s.PutSession(t.Context(), session), nil)
	}
	sessions, err := s.SessionsBySubject(t.Context(), "ann")
	wantErr(t, err, nil)
	var ids []string
	for _, session := range sessions {
		ids = append(ids, session.ID)
	}
	wantEqual(t, ids, []string{"2", "3", "1"})
	sessions, err = s.SessionsBySubject(t.Context(), "nobody")
	wantErr(t, err, nil)
	wantEqual(t, len(sessions), 0)
}

func signInEnds(t *testing.T, open Open) {
	s, _ := open(t)
	wantErr(t, s.PutSession(t.Context(), signIn("1", "ann", 0)), nil)
	wantErr(t, s.EndSession(t.Context(), "1", after(time.Minute)), nil)
	wantErr(t, s.EndSession(t.Context(), "1", after(time.Hour)), nil)
	got, err := s.Session(t.Context(), "1")
	wantErr(t, err, nil)
	wantEqual(t, got.EndedAt, after(time.Minute))
	wantEqual(t, got.ActiveAt(after(time.Minute)), false)
}

func signInMoves(t *testing.T, open Open) {
	s, _ := open(t)
	wantErr(t, s.PutSession(t.Context(), signIn("1", "ann", 0)), nil)
	wantErr(t, s.PutSession(t.Context(), signIn("1", "bob", 0)), nil)
	for subject, want := range map[string]int{"ann": 0, "bob": 1} {
		sessions, err := s.SessionsBySubject(t.Context(), subject)
		wantErr(t, err, nil)
		wantEqual(t, len(sessions), want)
	}
}

func signInSwept(t *testing.T, open Open) {
	s, _ := open(t)
	wantErr(t, s.PutSession(t.Context(), signIn("ended", "ann", 0)), nil)
	wantErr(t, s.PutSession(t.Context(), signIn("lasting", "ann", 0)), nil)
	wantErr(t, s.EndSession(t.Context(), "ended", after(time.Minute)), nil)
	wantEqual(t, sweep(t, s, after(24*time.Hour)), 0)
	wantEqual(t, sweep(t, s, after(24*time.Hour+time.Minute)), 1)
	_, err := s.Session(t.Context(), "ended")
	wantErr(t, err, storage.ErrNotFound)
	wantEqual(t, sweep(t, s, after(32*time.Hour)), 1)
	sessions, err := s.SessionsBySubject(t.Context(), "ann")
	wantErr(t, err, nil)
	wantEqual(t, len(sessions), 0)
}

func signInClients(t *testing.T, open Open) {
	s, _ := open(t)
	wantErr(t, s.PutSession(t.Context(), signIn("1", "ann", 0)), nil)
	for _, client := range []string{"web", "shop", "web"} {
		wantErr(t, s.AddSessionClient(t.Context(), "1", client), nil)
	}
	wantErr(t, s.AddSessionClient(t.Context(), "11", "other"), nil)
	wantErr(t, s.Tx(t.Context(), func(ctx context.Context) error { return s.AddSessionClient(ctx, "1", "unit") }), nil)
	wantErr(t, s.Tx(t.Context(), func(ctx context.Context) error {
		wantErr(t, s.AddSessionClient(ctx, "1", "dropped"), nil)
		return storage.ErrFull
	}), storage.ErrFull)
	// Neither a new record nor the end forgets them: the end is when they are needed.
	wantErr(t, s.PutSession(t.Context(), signIn("1", "ann", 0)), nil)
	wantErr(t, s.EndSession(t.Context(), "1", after(time.Minute)), nil)
	clients, err := s.SessionClients(t.Context(), "1")
	wantErr(t, err, nil)
	wantEqual(t, clients, []string{"shop", "unit", "web"})
	sweep(t, s, after(25*time.Hour))
	for id, want := range map[string][]string{"1": nil, "11": {"other"}, "": nil, "unknown": nil} {
		clients, err := s.SessionClients(t.Context(), id)
		wantErr(t, err, nil)
		wantEqual(t, clients, want)
	}
}
