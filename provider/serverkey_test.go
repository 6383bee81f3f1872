package provider_test

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// serverKeys returns the stored server keys, oldest first.
func serverKeys(t *testing.T, s *providertest.Server) []*storage.Key {
	t.Helper()
	keys, err := s.Store.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(keys, func(k *storage.Key) bool { return k.Use != storage.KeyServer })
}

// beforeRotation is a provider 20 s before its second server key takes over from the first.
func beforeRotation(t *testing.T, change func(*provider.Config)) *providertest.Server {
	t.Helper()
	s := newShop(t, providertest.Options{Change: change})
	s.Clock.Advance(89*day - time.Second)
	sweep(t, s)
	if n := len(serverKeys(t, s)); n != 1 {
		t.Fatalf("too early: %d server keys", n)
	}
	s.Clock.Advance(time.Second)
	sweep(t, s)
	sweep(t, s)
	if n := len(serverKeys(t, s)); n != 2 {
		t.Fatalf("%d server keys", n)
	}
	s.Clock.Advance(day - 20*time.Second)
	return s
}

// rotate moves the clock to the change of keys and checks that new sessions follow it.
func rotate(t *testing.T, s *providertest.Server) {
	t.Helper()
	keys := serverKeys(t, s)
	if got := openQR(t, s, "tv", nil).record().KeyID; got != keys[0].ID {
		t.Fatalf("made under %q before its time", got)
	}
	s.Clock.Advance(20 * time.Second)
	if got := openQR(t, s, "tv", nil).record().KeyID; got != keys[1].ID {
		t.Fatalf("made under %q still", got)
	}
}

// A sign-in that is under way when the server key changes goes on, whatever state it is in.
func TestServerKeyChangesUnderASession(t *testing.T) {
	t.Parallel()
	s := beforeRotation(t, nil)
	p := newPhone(t, s)
	code := func(c *consumption) string {
		s.Clock.Advance(5 * time.Second)
		return c.poll(t.Context()).Text("check_code")
	}
	framed, typed, scanned, approved, kiosk := openQR(t, s, "cli", nil), openQR(t, s, "tv", nil), openQR(t, s, "cli", nil), openQR(t, s, "cli", nil), openQR(t, s, "kiosk", nil)
	scan, shown := scanned.claim(p)
	approved.approve(p)
	rotate(t, s)

	tokensOf(t, approved.poll(t.Context()))
	if again := scanned.poll(t.Context()).Text("check_code"); again != shown || again == "" {
		t.Errorf("the check code was %q and is %q", shown, again)
	}
	for c, answer := range map[*consumption]*providertest.Reply{
		scanned: scan, framed: p.scan(payload(framed.poll(t.Context())), "scanner"),
		typed: p.scanCode(typed.userCode()), kiosk: p.scanCode(kiosk.userCode()),
	} {
		body := decision(answer, "approve", code(c))
		if c == kiosk {
			body["user_code"] = c.userCode()
		}
		if decided := p.post(t.Context(), "/qr/decision", body); decided.Status != http.StatusOK {
			t.Errorf("%s: %d %s after %s", c.client.ID, decided.Status, decided.Body, answer.Body)
		}
		s.Clock.Advance(5 * time.Second)
		tokensOf(t, c.poll(t.Context()))
	}
}

// A sign-in page that was opened before the change is good for its hour, and so is the note
// that keeps a sign-in from being idle.
func TestServerKeyChangesUnderAPage(t *testing.T) {
	t.Parallel()
	s := beforeRotation(t, func(c *provider.Config) { c.SessionIdle = time.Hour })
	used := s.Browser()
	s.SignedIn(t.Context(), used, "web", "openid")
	s.Clock.Advance(-50 * time.Minute)
	early, late := visit(t, s, s.Browser(), "shop"), visit(t, s, s.Browser(), "shop")
	s.Clock.Advance(50 * time.Minute)
	hosted := visit(t, s, s.Browser(), "shop")
	rotate(t, s)
	hosted.signedIn(newPhone(t, s))
	if redirect := s.SignIn(t.Context(), early.browser, early.page); redirect.Location().Query().Get("code") == "" {
		t.Errorf("a page of before: %d %s", redirect.Status, redirect.Body)
	}
	s.Clock.Advance(11 * time.Minute)
	if reply := s.SignIn(t.Context(), late.browser, late.page); reply.Status != http.StatusForbidden {
		t.Errorf("a page of more than an hour ago: %d", reply.Status)
	}
}

// The note of the last use outlives the key that sealed it.
func TestServerKeyChangesUnderANote(t *testing.T) {
	t.Parallel()
	s := beforeRotation(t, func(c *provider.Config) { c.SessionIdle = time.Hour })
	s.Clock.Advance(-30 * time.Minute)
	used := s.Browser()
	s.SignedIn(t.Context(), used, "web", "openid")
	s.Clock.Advance(30 * time.Minute)
	if !silent(t, s, used) {
		t.Fatal("the sign-in has ended")
	}
	rotate(t, s)
	s.Clock.Advance(45 * time.Minute)
	// An hour and a quarter after the sign-in, only the note says that it was used.
	if !silent(t, s, used) {
		t.Error("the note of before the change does not count")
	}
}

// forged makes the token of a sign-in form as somebody could who has a server key.
func forged(t *testing.T, s *providertest.Server, k *storage.Key, b *tab) string {
	t.Helper()
	key, err := hkdf.Key(sha256.New, k.Secret, nil, "provider|form", sha256.Size)
	if err != nil {
		t.Fatal(err)
	}
	at := strconv.FormatInt(s.Clock.Now().Unix(), 36)
	mac := hmac.New(sha256.New, key)
	for _, part := range []string{b.cookies()["__Host-qrgrant-form"], "", "sign-in", b.page.Hidden("next"), at} {
		mac.Write([]byte(strconv.Itoa(len(part)) + ":" + part))
	}
	return at + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// Once nothing can name it any more, a server key makes and checks nothing, and is removed.
func TestServerKeyRetires(t *testing.T) {
	t.Parallel()
	s := beforeRotation(t, nil)
	old := serverKeys(t, s)[0]
	b := visit(t, s, s.Browser(), "shop")
	c := openQR(t, s, "tv", nil)
	rotate(t, s)
	accepted := func() bool {
		b.load()
		reply := s.Post(t.Context(), b.browser, "/login", url.Values{
			"csrf": {forged(t, s, old, b)}, "next": {b.page.Hidden("next")}, "login": {"nobody"}, "password": {"wrong"},
		})
		return reply.Status != http.StatusForbidden
	}
	// The longest session, its redemption and the day until its sweep.
	s.Clock.Advance(10220*time.Second + 26*time.Hour - time.Second)
	sweep(t, s)
	if !accepted() {
		t.Error("a key that may be named is not known any more")
	}
	if _, err := s.Store.QRSession(t.Context(), c.id); err == nil {
		t.Error("a session is there longer than its key has to be")
	}
	s.Clock.Advance(time.Second)
	if accepted() {
		t.Error("a retired key checks")
	}
	// Only the notes of known browsers still name it.
	has := func() bool {
		return slices.ContainsFunc(serverKeys(t, s), func(k *storage.Key) bool { return k.ID == old.ID })
	}
	s.Clock.Advance(180*day - 10220*time.Second - 26*time.Hour - time.Second)
	sweep(t, s)
	if !has() || accepted() {
		t.Error("the key is gone before the notes, or checks")
	}
	s.Clock.Advance(time.Second)
	sweep(t, s)
	if has() {
		t.Error("the key is stored still")
	}
	// What names it all the same cannot go on.
	late := openQR(t, s, "cli", nil)
	err := s.Store.UpdateQRSession(t.Context(), late.id, func(q *storage.QRSession) error {
		q.KeyID = old.ID
		q.Version++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if reply := late.poll(t.Context()); reply.Status != http.StatusInternalServerError || strings.Contains(reply.Body, old.ID) {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
}

// Processes on one store make one next server key between them, and a session that names a key
// of the other's is no stranger.
func TestServerKeyReplicas(t *testing.T) {
	t.Parallel()
	a := newShop(t, providertest.Options{})
	b := providertest.NewServer(t, providertest.Options{Store: a.Store, Change: func(c *provider.Config) {
		c.Issuer, c.KeyRotation, c.KeyPublishAhead = a.Issuer, time.Hour, time.Minute
	}})
	a.Clock.Advance(59 * time.Minute)
	b.Clock.Advance(59 * time.Minute)
	sweep(t, b)
	if n := len(serverKeys(t, a)); n != 2 {
		t.Fatalf("%d server keys", n)
	}
	a.Clock.Advance(2 * time.Minute)
	b.Clock.Advance(2 * time.Minute)
	c := openQR(t, b, "cli", nil)
	if id := c.record().KeyID; id == serverKeys(t, a)[0].ID {
		t.Fatal("b goes on with the first key")
	}
	if scan := newPhone(t, a).scan(payload(c.opened), "scanner"); scan.Status != http.StatusOK {
		t.Errorf("%d %s", scan.Status, scan.Body)
	}
}

// Two processes that are due at the same moment, each not knowing of the other's try.
func TestServerKeyIsMadeOnce(t *testing.T) {
	t.Parallel()
	a := newShop(t, providertest.Options{})
	b := providertest.NewServer(t, providertest.Options{Store: a.Store})
	a.Clock.Advance(89 * day)
	b.Clock.Advance(89 * day)
	var both sync.WaitGroup
	for _, s := range []*providertest.Server{a, b} {
		both.Go(func() { sweep(t, s) })
	}
	both.Wait()
	if n := len(serverKeys(t, a)); n != 2 {
		t.Errorf("%d server keys", n)
	}
}
