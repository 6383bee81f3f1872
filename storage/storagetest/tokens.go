package storagetest

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/storage"
)

func tokenTests() map[string]func(*testing.T, Open) {
	return map[string]func(*testing.T, Open){
		"a token comes back as it was stored":                  tokenRoundTrip,
		"a signature is taken once per kind":                   tokenConflict,
		"a token is used once":                                 tokenUsed,
		"an update of a token is conditional":                  tokenUpdated,
		"of a hundred updates of a token none is lost":         tokenUpdateRace,
		"of a hundred who use a token one wins":                tokenRace,
		"revocation reaches what the filter says":              revokeFilter,
		"revocation survives a restart":                        revokeRestart,
		"revocation wins over a refresh of the same family":    revokeBeforeRefresh,
		"revocation and a racing refresh leave no live family": revokeRacesRefresh,
		"a token is removed when it need not be kept":          tokenSwept,
		"revocation of a person reaches what a sweep has left": revokeSwept,
	}
}

func tokenRoundTrip(t *testing.T, open Open) {
	s, _ := open(t)
	full := token(storage.TokenRefresh, 1)
	full.UsedAt, full.KeepUntil, full.Data = after(time.Second), after(time.Hour), make([]byte, 64<<10)
	bare := &storage.Token{Kind: storage.TokenAccess, Signature: digest("bare"), ExpiresAt: opened()}
	for _, want := range []*storage.Token{full, bare} {
		putToken(t, s, want)
		got, err := s.Token(t.Context(), want.Kind, want.Signature)
		wantErr(t, err, nil)
		wantEqual(t, got, want)
	}
}

func tokenConflict(t *testing.T, open Open) {
	s, _ := open(t)
	putToken(t, s, token(storage.TokenAccess, 1))
	wantErr(t, s.PutToken(t.Context(), token(storage.TokenAccess, 1)), storage.ErrConflict)
	wantErr(t, s.PutToken(t.Context(), token(storage.TokenRefresh, 1)), nil)
	err := s.Tx(t.Context(), func(ctx context.Context) error {
		wantErr(t, s.PutToken(ctx, token(storage.TokenAccess, 2)), nil)
		return s.PutToken(ctx, token(storage.TokenAccess, 2))
	})
	wantErr(t, err, storage.ErrConflict)
}

func tokenUsed(t *testing.T, open Open) {
	s, _ := open(t)
	tok := token(storage.TokenCode, 1)
	putToken(t, s, tok)
	wantErr(t, s.UseToken(t.Context(), tok.Kind, tok.Signature, after(time.Second)), nil)
	wantErr(t, s.UseToken(t.Context(), tok.Kind, tok.Signature, after(time.Minute)), storage.ErrConflict)
	want := *tok
	want.Active, want.UsedAt = false, after(time.Second)
	got, err := s.Token(t.Context(), tok.Kind, tok.Signature)
	wantErr(t, err, nil)
	wantEqual(t, got, &want)
}

func tokenUpdated(t *testing.T, open Open) {
	s, reopen := open(t)
	tok, other := token(storage.TokenRefresh, 1), token(storage.TokenRefresh, 2)
	putToken(t, s, tok)
	putToken(t, s, other)
	to := storage.Succession{Access: digest("access"), Refresh: digest("refresh"), Credential: digest("secret")}
	rotate := func(t *storage.Token) error { return t.Rotate(to, after(time.Second)) }
	wantErr(t, s.UpdateToken(t.Context(), tok.Kind, tok.Signature, rotate), nil)
	wantErr(t, s.UpdateToken(t.Context(), tok.Kind, tok.Signature, rotate), storage.ErrConflict)
	// A unit whose condition fails leaves nothing of itself.
	err := s.Tx(t.Context(), func(ctx context.Context) error {
		return errors.Join(
			s.UpdateToken(ctx, other.Kind, other.Signature, rotate),
			s.UpdateToken(ctx, tok.Kind, tok.Signature, rotate),
		)
	})
	wantErr(t, err, storage.ErrConflict)
	s = reopen()
	want := *tok
	want.Active, want.UsedAt, want.Succession = false, after(time.Second), &to
	for _, stored := range []*storage.Token{&want, other} {
		got, err := s.Token(t.Context(), stored.Kind, stored.Signature)
		wantErr(t, err, nil)
		wantEqual(t, got, stored)
	}
}

func tokenUpdateRace(t *testing.T, open Open) {
	s, _ := open(t)
	tok := token(storage.TokenRefresh, 1)
	tok.Data = nil
	putToken(t, s, tok)
	race(100, func(i int) {
		grow := func(t *storage.Token) error {
			t.Data = append(t.Data, byte(i))
			return nil
		}
		wantErr(t, s.UpdateToken(t.Context(), tok.Kind, tok.Signature, grow), nil)
	})
	got, err := s.Token(t.Context(), tok.Kind, tok.Signature)
	wantErr(t, err, nil)
	wantEqual(t, len(got.Data), 100)
}

func tokenRace(t *testing.T, open Open) {
	s, _ := open(t)
	for n := range 10 {
		tok := token(storage.TokenRefresh, n)
		putToken(t, s, tok)
		var wins, losses atomic.Int64
		race(100, func(i int) {
			var err error
			if i%2 == 0 {
				err = s.UseToken(t.Context(), tok.Kind, tok.Signature, opened())
			} else {
				err = s.Tx(t.Context(), func(ctx context.Context) error {
					return s.UseToken(ctx, tok.Kind, tok.Signature, opened())
				})
			}
			if err == nil {
				wins.Add(1)
				return
			}
			wantErr(t, err, storage.ErrConflict)
			losses.Add(1)
		})
		wantEqual(t, []int64{wins.Load(), losses.Load()}, []int64{1, 99})
	}
}

func revokeFilter(t *testing.T, open Open) {
	tokens := []*storage.Token{
		{Kind: storage.TokenAccess, RequestID: "r1", SessionID: "s1", Subject: "ann", ClientID: "tv"},
		{Kind: storage.TokenRefresh, RequestID: "r1", SessionID: "s1", Subject: "ann", ClientID: "tv"},
		{Kind: storage.TokenAccess, RequestID: "r2", SessionID: "s1", Subject: "ann", ClientID: "web"},
		{Kind: storage.TokenAccess, RequestID: "r3", SessionID: "s2", Subject: "ann", ClientID: "tv"},
		{Kind: storage.TokenAccess, RequestID: "r4", SessionID: "s3", Subject: "bob", ClientID: "tv"},
		{Kind: storage.TokenAccess, RequestID: "r", ClientID: "tv"},
		{Kind: storage.TokenAccess, RequestID: "r5", Subject: "eve", ClientID: "tv"},
		{Kind: storage.TokenAccess, RequestID: "r6", SessionID: "s4", Subject: "eve", ClientID: "tv"},
		{Kind: storage.TokenRefresh, SessionID: "s4", Subject: "sam"},
		{Kind: storage.TokenRefresh, SessionID: "s4"},
	}
	for name, test := range map[string]struct {
		filter storage.TokenFilter
		want   []int
	}{
		"the family":                  {storage.TokenFilter{RequestID: "r1"}, []int{0, 1}},
		"one kind of the family":      {storage.TokenFilter{RequestID: "r1", Kind: storage.TokenRefresh}, []int{1}},
		"a family that prefixes more": {storage.TokenFilter{RequestID: "r"}, []int{5}},
		"the sign-in":                 {storage.TokenFilter{SessionID: "s1"}, []int{0, 1, 2}},
		"the sign-in at a client":     {storage.TokenFilter{SessionID: "s1", ClientID: "web"}, []int{2}},
		"the person":                  {storage.TokenFilter{Subject: "ann"}, []int{0, 1, 2, 3}},
		"a person without a sign-in":  {storage.TokenFilter{Subject: "eve"}, []int{6, 7}},
		"a sign-in of several":        {storage.TokenFilter{SessionID: "s4"}, []int{7, 8, 9}},
		"a person in a shared one":    {storage.TokenFilter{Subject: "sam"}, []int{8}},
		"fields that contradict":      {storage.TokenFilter{RequestID: "r1", Subject: "bob"}, nil},
		"a client alone is nothing":   {storage.TokenFilter{ClientID: "tv"}, nil},
		"an empty filter is nothing":  {storage.TokenFilter{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := open(t)
			for i, tok := range tokens {
				stored := *tok
				stored.Signature, stored.Active, stored.ExpiresAt = digest(i), true, after(time.Hour)
				putToken(t, s, &stored)
			}
			n, err := s.RevokeTokens(t.Context(), test.filter, opened())
			wantErr(t, err, nil)
			wantEqual(t, n, len(test.want))
			var revoked []int
			for i, tok := range tokens {
				got, err := s.Token(t.Context(), tok.Kind, digest(i))
				wantErr(t, err, nil)
				if !got.Active {
					revoked = append(revoked, i)
				}
			}
			wantEqual(t, revoked, test.want)
			n, err = s.RevokeTokens(t.Context(), test.filter, opened())
			wantErr(t, err, nil)
			wantEqual(t, n, 0)
		})
	}
}

func revokeRestart(t *testing.T, open Open) {
	s, reopen := open(t)
	tok := token(storage.TokenRefresh, 1)
	putToken(t, s, tok)
	_, err := s.RevokeTokens(t.Context(), storage.TokenFilter{Subject: "ann"}, opened())
	wantErr(t, err, nil)
	wantEqual(t, active(t, reopen(), tok), false)
}

// refresh rotates old into next as one unit.
func refresh(ctx context.Context, s storage.Store, old, next *storage.Token, between func()) error {
	return s.Tx(ctx, func(ctx context.Context) error {
		if err := s.UseToken(ctx, old.Kind, old.Signature, opened()); err != nil {
			return err
		}
		if err := s.PutToken(ctx, next); err != nil {
			return err
		}
		between()
		return nil
	})
}

func revokeBeforeRefresh(t *testing.T, open Open) {
	s, _ := open(t)
	old, next := token(storage.TokenRefresh, 1), token(storage.TokenRefresh, 2)
	putToken(t, s, old)
	err := refresh(t.Context(), s, old, next, func() {
		_, err := s.RevokeTokens(t.Context(), storage.TokenFilter{RequestID: "family"}, opened())
		wantErr(t, err, nil)
	})
	wantErr(t, err, storage.ErrConflict)
	_, err = s.Token(t.Context(), next.Kind, next.Signature)
	wantErr(t, err, storage.ErrNotFound)
}

func revokeRacesRefresh(t *testing.T, open Open) {
	s, _ := open(t)
	for n := range 30 {
		old, next := token(storage.TokenRefresh, 2*n), token(storage.TokenRefresh, 2*n+1)
		putToken(t, s, old)
		race(2, func(i int) {
			if i == 0 {
				if err := refresh(t.Context(), s, old, next, func() {}); err != nil {
					wantErr(t, err, storage.ErrConflict)
				}
				return
			}
			_, err := s.RevokeTokens(t.Context(), storage.TokenFilter{RequestID: "family"}, opened())
			wantErr(t, err, nil)
		})
		if got, err := s.Token(t.Context(), next.Kind, next.Signature); err == nil && got.Active {
			t.Error("a refreshed token outlived the revocation of its family")
		}
	}
}

func tokenSwept(t *testing.T, open Open) {
	s, _ := open(t)
	kept, short := token(storage.TokenRefresh, 1), token(storage.TokenAccess, 2)
	kept.KeepUntil = after(time.Hour)
	putToken(t, s, kept)
	putToken(t, s, short)
	wantEqual(t, sweep(t, s, short.ExpiresAt.Add(-time.Microsecond)), 0)
	wantEqual(t, sweep(t, s, short.ExpiresAt), 1)
	_, err := s.Token(t.Context(), short.Kind, short.Signature)
	wantErr(t, err, storage.ErrNotFound)
	wantEqual(t, active(t, s, kept), true)
	wantEqual(t, sweep(t, s, kept.KeepUntil), 1)
	n, err := s.RevokeTokens(t.Context(), storage.TokenFilter{RequestID: "family"}, opened())
	wantErr(t, err, nil)
	wantEqual(t, n, 0)
}

func revokeSwept(t *testing.T, open Open) {
	s, _ := open(t)
	// Two of one sign-in, of which the sweep removes one, and one of a sign-in it empties.
	gone, left, other := token(storage.TokenAccess, 1), token(storage.TokenRefresh, 2), token(storage.TokenAccess, 3)
	left.KeepUntil = after(24 * time.Hour)
	other.SessionID = "another"
	for _, tok := range []*storage.Token{gone, left, other} {
		putToken(t, s, tok)
	}
	wantEqual(t, sweep(t, s, gone.ExpiresAt), 2)
	n, err := s.RevokeTokens(t.Context(), storage.TokenFilter{Subject: gone.Subject}, opened())
	wantErr(t, err, nil)
	wantEqual(t, n, 1)
	wantEqual(t, active(t, s, left), false)
	wantEqual(t, sweep(t, s, left.KeepUntil), 1)
	n, err = s.RevokeTokens(t.Context(), storage.TokenFilter{Subject: gone.Subject}, opened())
	wantErr(t, err, nil)
	wantEqual(t, n, 0)
}
