package dpop_test

import (
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider/dpop"
)

// code is the error code of a Verify; empty for none.
func code(t *testing.T, err error) string {
	t.Helper()
	var refused *dpop.Error
	if err != nil && !errors.As(err, &refused) {
		t.Fatal(err)
	}
	if refused == nil {
		return ""
	}
	return refused.Code
}

func TestNoProofProvesNothing(t *testing.T) {
	t.Parallel()
	jkt, err := newServer().Verify(t.Context(), request())
	if jkt != "" || err != nil {
		t.Errorf("got %q, %v", jkt, err)
	}
}

func TestOneProofInOneHeader(t *testing.T) {
	t.Parallel()
	s := newServer()
	key := ecKey(t, elliptic.P256())
	first, second := newToken(t, s, key).sign(t), newToken(t, s, key).sign(t)
	_, err := s.Verify(t.Context(), request(first, second))
	if code(t, err) != dpop.CodeInvalidProof {
		t.Errorf("two headers: %v", err)
	}
	if _, err := s.Verify(t.Context(), request(first)); err != nil {
		t.Errorf("each of them alone is good: %v", err)
	}
}

func TestAProofCountsOnce(t *testing.T) {
	t.Parallel()
	s := newServer()
	p := newToken(t, s, ecKey(t, elliptic.P256()))
	proof := p.sign(t)
	for range 2 {
		_, err := s.Verify(t.Context(), request(proof))
		if again := len(s.used) == 1 && err != nil; again != (code(t, err) == dpop.CodeInvalidProof) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := s.Verify(t.Context(), request(p.sign(t))); code(t, err) != dpop.CodeInvalidProof {
		t.Errorf("another signature over the same: %v", err)
	}
	// As long as its iat is good, whatever the clock.
	s.advance(70 * time.Second)
	if _, err := s.Verify(t.Context(), request(proof)); code(t, err) != dpop.CodeInvalidProof {
		t.Errorf("at the end of its time: %v", err)
	}
	other := newToken(t, s, ecKey(t, elliptic.P256()))
	other.payload["jti"] = p.payload["jti"]
	if _, err := s.Verify(t.Context(), request(other.sign(t))); err != nil {
		t.Errorf("another key with the same jti: %v", err)
	}
}

func TestUseOnceKeepsAsLongAsTheProofIsGood(t *testing.T) {
	t.Parallel()
	s := newServer()
	p := newToken(t, s, ecKey(t, elliptic.P256()))
	p.payload["iat"] = s.clock().Add(10 * time.Second).Unix()
	if _, err := s.Verify(t.Context(), request(p.sign(t))); err != nil {
		t.Fatal(err)
	}
	last := s.clock().Add(80 * time.Second) // when a proof of then is refused
	for _, until := range s.used {
		if !until.After(last) {
			t.Errorf("the jti is forgotten at %v, and the proof good until %v", until, last)
		}
	}
}

func TestAFailureOfTheServerIsNoError(t *testing.T) {
	t.Parallel()
	s := newServer()
	s.down = errors.New("the disk is full")
	_, err := s.Verify(t.Context(), request(newToken(t, s, ecKey(t, elliptic.P256())).sign(t)))
	var refused *dpop.Error
	if !errors.Is(err, s.down) || errors.As(err, &refused) {
		t.Errorf("got %v", err)
	}
}

func TestTheMethodIsTheRequests(t *testing.T) {
	t.Parallel()
	s := newServer()
	p := newToken(t, s, ecKey(t, elliptic.P256()))
	r := request(p.sign(t))
	r.Method = "DELETE"
	if _, err := s.Verify(t.Context(), r); code(t, err) != dpop.CodeInvalidProof {
		t.Errorf("got %v", err)
	}
}

func TestAccessTokenHash(t *testing.T) {
	t.Parallel()
	hash := func(token string) string {
		sum := sha256.Sum256([]byte(token))
		return base64.RawURLEncoding.EncodeToString(sum[:])
	}
	for name, row := range map[string]struct {
		ath, token string
		want       string
	}{
		"its own":            {hash("token"), "token", ""},
		"missing":            {"", "token", dpop.CodeInvalidProof},
		"of another token":   {hash("other"), "token", dpop.CodeInvalidProof},
		"the token itself":   {"token", "token", dpop.CodeInvalidProof},
		"padded":             {hash("token") + "=", "token", dpop.CodeInvalidProof},
		"where no token is":  {hash("token"), "", ""},
		"none and no tokens": {"", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer()
			p := newToken(t, s, ecKey(t, elliptic.P256()))
			if row.ath != "" {
				p.payload["ath"] = row.ath
			}
			r := request(p.sign(t))
			r.AccessToken = row.token
			if _, err := s.Verify(t.Context(), r); code(t, err) != row.want {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}

func TestNonce(t *testing.T) {
	t.Parallel()
	s := newServer()
	key := ecKey(t, elliptic.P256())
	try := func(at *server, nonce any) string {
		t.Helper()
		p := newToken(t, at, key)
		set(p.payload, "nonce", nonce)
		_, err := at.Verify(t.Context(), request(p.sign(t)))
		return code(t, err)
	}
	old := s.Nonce()
	s.advance(4 * time.Minute)
	if got := try(s, old); got != "" {
		t.Errorf("a nonce of four minutes: %s", got)
	}
	// Replicas whose clocks differ take the nonces of each other.
	ahead := newServer()
	ahead.advance(2*time.Minute - time.Second)
	behind := newServer()
	behind.advance(2*time.Minute - 6*time.Second)
	ahead.advance(time.Second)
	if ahead.Nonce() == behind.Nonce() {
		t.Fatal("the two are in the same step")
	}
	if got := try(behind, ahead.Nonce()); got != "" {
		t.Errorf("the nonce of a clock that is 6 s ahead: %s", got)
	}
	behind.advance(-time.Minute)
	if got := try(behind, ahead.Nonce()); got != dpop.CodeUseNonce {
		t.Errorf("a nonce that is a minute too early: %q", got)
	}
	// A rotated secret still checks.
	former := s.Nonce()
	s.secrets = append([][]byte{[]byte("a newer secret of nonces, 32 byte")}, s.secrets...)
	if s.Nonce() == former {
		t.Error("the newer secret makes no nonces")
	}
	if got := try(s, former); got != "" {
		t.Errorf("the nonce of the former secret: %s", got)
	}
	s.secrets = s.secrets[:1]
	if got := try(s, former); got != dpop.CodeUseNonce {
		t.Errorf("the nonce of a secret that is gone: %q", got)
	}
}

func TestNonceOptional(t *testing.T) {
	t.Parallel()
	s := newServer(nonceOptional)
	for name, row := range map[string]struct {
		nonce any
		want  string
	}{
		"without":   {nil, ""},
		"with one":  {s.Nonce(), ""},
		"a bad one": {"x", dpop.CodeUseNonce},
	} {
		p := newToken(t, s, ecKey(t, elliptic.P256()))
		set(p.payload, "nonce", row.nonce)
		if _, err := s.Verify(t.Context(), request(p.sign(t))); code(t, err) != row.want {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestNoSecretsNoNonce(t *testing.T) {
	t.Parallel()
	v := dpop.New(dpop.Config{
		UseOnce: func(context.Context, [32]byte, time.Time) error { return nil },
		Secrets: func() [][]byte { return nil },
	})
	if got := v.Nonce(); got != "" {
		t.Errorf("got %q", got)
	}
}
