package provider_test

import (
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

const knownName = "__Host-qrgrant-known"

// door is a sign-in page behind a proxy, so that a test can come from anywhere.
type door struct {
	*providertest.Server
	t *testing.T
}

func newDoor(t *testing.T, people ...string) *door {
	t.Helper()
	s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) {
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	}})
	for _, p := range people {
		addPerson(t, s, p)
	}
	return &door{s, t}
}

// try sends the sign-in form of the browser from an address. A form can be sent again.
func (d *door) try(browser *http.Client, form url.Values, address string) *providertest.Reply {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), http.MethodPost, d.URL("/login"), strings.NewReader(form.Encode()))
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("X-Forwarded-For", address)
	return d.Do(browser, req)
}

// signIn opens the page and sends the right password.
func (d *door) signIn(browser *http.Client, login, address string) *providertest.Reply {
	d.t.Helper()
	page := ask(d.t, d.Server, browser, "web", "prompt", "login")
	return d.try(browser, url.Values{"csrf": {page.Hidden("csrf")}, "next": {page.Hidden("next")}, "login": {login}, "password": {providertest.AlicePassword}}, address)
}

func (d *door) known(browser *http.Client) string {
	d.t.Helper()
	return cookieOf(d.t, d.Server, browser, knownName)
}

func cookieOf(t *testing.T, s *providertest.Server, browser *http.Client, name string) string {
	t.Helper()
	for _, c := range browser.Jar.Cookies(issuerOf(t, s)) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

func setCookieOf(t *testing.T, s *providertest.Server, browser *http.Client, name, value string) {
	t.Helper()
	browser.Jar.SetCookies(issuerOf(t, s), []*http.Cookie{{Name: name, Value: value, Path: "/", Secure: true}})
}

func issuerOf(t *testing.T, s *providertest.Server) *url.URL {
	t.Helper()
	u, err := url.Parse(s.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func signedIn(r *providertest.Reply) bool {
	return r.Status == http.StatusSeeOther && r.Location().Query().Get("code") != ""
}

// Twenty minutes of an attacker with 10,000 networks of IPv6 and 50 of IPv4 keep the owner out
// neither of the browser that has signed in before, be it in a network of the attacker's, nor of
// a new one in a network that never failed.
func TestAccountCannotBeLockedOut(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	mine := d.Browser()
	if reply := d.signIn(mine, providertest.AliceLogin, "198.51.100.1"); !signedIn(reply) {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	attacker := d.Browser()
	form := passwordForm(t, d.Server, attacker, providertest.AliceLogin, "wrong")
	refused := 0
	for minute := range 20 {
		if minute > 0 {
			form = passwordForm(t, d.Server, attacker, providertest.AliceLogin, "wrong")
		}
		for i := range 500 {
			if got := d.try(attacker, form, "2001:db8:"+strconv.FormatInt(int64(minute*500+i), 16)+"::1").Status; got != http.StatusOK {
				t.Fatalf("a fresh network's first try: %d", got)
			}
		}
		for i := range 50 {
			// In one of them the owner signs in, which makes it a home for whoever is there.
			if d.try(attacker, form, "203.0."+strconv.Itoa(i)+".9").Status == http.StatusTooManyRequests && i != 7 {
				refused++
			}
		}
		for name, reply := range map[string]*providertest.Reply{
			"known browser": d.signIn(mine, providertest.AliceLogin, "192.0.2.1"),
			"known browser in the attacker's network":  d.signIn(mine, "ALICE", "203.0.7.9"),
			"new browser in a network that never fail": d.signIn(d.Browser(), providertest.AliceLogin, "172.16."+strconv.Itoa(minute)+".1"),
			"new browser at home":                      d.signIn(d.Browser(), providertest.AliceLogin, "198.51.100.1"),
		} {
			if !signedIn(reply) {
				t.Fatalf("minute %d, %s: %d", minute, name, reply.Status)
			}
		}
		d.Clock.Advance(time.Minute)
	}
	if refused != 49*18 { // each has a try at first, and one after a quarter of an hour
		t.Errorf("49 networks were refused %d times, want %d", refused, 49*18)
	}
}

// What a browser fails at counts against that browser and nobody else, and the answer says how
// long to wait.
func TestKnownBrowserHasWaitsOfItsOwn(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	one, two := d.Browser(), d.Browser()
	for _, b := range []*http.Client{one, two} {
		d.signIn(b, providertest.AliceLogin, "198.51.100.1")
	}
	page := ask(t, d.Server, one, "web", "prompt", "login")
	wrong := url.Values{"csrf": {page.Hidden("csrf")}, "next": {page.Hidden("next")}, "login": {providertest.AliceLogin}, "password": {"wrong"}}
	for i := range 5 {
		if got := d.try(one, wrong, "198.51.100.1").Status; got != http.StatusOK {
			t.Fatalf("failure %d: %d", i, got)
		}
	}
	for _, want := range []string{"1", "2", "4", "8"} {
		reply := d.try(one, wrong, "203.0.113.1")
		if reply.Status != http.StatusTooManyRequests || reply.Header.Get("Retry-After") != want {
			t.Fatalf("%d, Retry-After %q, want %q", reply.Status, reply.Header.Get("Retry-After"), want)
		}
		seconds, err := strconv.Atoi(want)
		if err != nil {
			t.Fatal(err)
		}
		d.Clock.Advance(time.Duration(seconds) * time.Second)
		if got := d.try(one, wrong, "203.0.113.1").Status; got != http.StatusOK {
			t.Fatalf("after %s s: %d", want, got)
		}
	}
	if reply := d.signIn(two, providertest.AliceLogin, "198.51.100.1"); !signedIn(reply) {
		t.Errorf("the other browser waits too: %d", reply.Status)
	}
	d.Clock.Advance(16 * time.Second)
	if reply := d.signIn(one, providertest.AliceLogin, "203.0.113.1"); !signedIn(reply) {
		t.Errorf("after the wait: %d", reply.Status)
	}
	if got := d.try(one, wrong, "203.0.113.1").Status; got == http.StatusTooManyRequests {
		t.Error("the right password did not clear the browser's failures")
	}
}

// attacked makes Alice's account one under attack, and fails from the address.
func (d *door) attacked(login, address string) {
	d.t.Helper()
	attacker := d.Browser()
	form := passwordForm(d.t, d.Server, attacker, login, "wrong")
	for i := range 101 {
		d.try(attacker, form, "10."+strconv.Itoa(i)+".0.1")
	}
	d.try(attacker, form, address)
}

// A note of another person, of another server, an old one or a changed one opens nothing.
func TestKnownCookieOfAnother(t *testing.T) {
	t.Parallel()
	d := newDoor(t, "bob")
	alice, bob := d.Browser(), d.Browser()
	if !signedIn(d.signIn(alice, providertest.AliceLogin, "198.51.100.1")) || !signedIn(d.signIn(bob, "bob", "198.51.100.2")) {
		t.Fatal("not signed in")
	}
	const here = "203.0.113.1"
	d.attacked(providertest.AliceLogin, here)
	good, bobs := d.known(alice), d.known(bob)
	if good == "" || strings.Contains(good, "alice") {
		t.Fatalf("note %q", good)
	}
	try := func(note string) *providertest.Reply {
		thief := d.Browser()
		setCookieOf(t, d.Server, thief, knownName, note)
		return d.signIn(thief, providertest.AliceLogin, here)
	}
	id, seal, _ := strings.Cut(good, ".")
	bobsID, bobsSeal, _ := strings.Cut(bobs, ".")
	for name, note := range map[string]string{
		"none": "", "bob's": bobs, "bob's id under alice's seal": bobsID + "." + seal, "alice's id under bob's seal": id + "." + bobsSeal,
		"another time": id + ".zzz" + seal[strings.IndexByte(seal, '.'):], "no seal": id + ".", "rubbish": "~~~.~.", "too many": strings.Repeat(bobs+"~", 4) + good,
		"too long": strings.Repeat("a", 5000) + "~" + good,
	} {
		if reply := try(note); reply.Status != http.StatusTooManyRequests {
			t.Errorf("%s: %d", name, reply.Status)
		}
	}
	if reply := try(bobs + "~" + good); !signedIn(reply) {
		t.Errorf("alice's own beside bob's: %d", reply.Status)
	}
	d.Clock.Advance(180 * 24 * time.Hour)
	d.attacked(providertest.AliceLogin, here)
	if reply := try(good); reply.Status != http.StatusTooManyRequests {
		t.Errorf("half a year later: %d", reply.Status)
	}
}

// Several people share a browser; each stays known, and the note is one nobody else can read.
func TestKnownBrowserOfSeveralPeople(t *testing.T) {
	t.Parallel()
	people := []string{"bob", "carol", "dave", "erin"}
	d := newDoor(t, people...)
	shared := d.Browser()
	for _, login := range append([]string{providertest.AliceLogin}, people...) {
		if reply := d.signIn(shared, login, "198.51.100.1"); !signedIn(reply) {
			t.Fatalf("%s: %d", login, reply.Status)
		}
	}
	if got := strings.Count(d.known(shared), "~") + 1; got != 4 {
		t.Errorf("%d people in the note", got)
	}
	const here = "203.0.113.1"
	for login, known := range map[string]bool{providertest.AliceLogin: false, "bob": true, "erin": true} {
		d.attacked(login, here)
		other := d.Browser()
		setCookieOf(t, d.Server, other, knownName, d.known(shared))
		if reply := d.signIn(other, login, here); signedIn(reply) != known {
			t.Errorf("%s: %d", login, reply.Status)
		}
	}
}

// Whoever is disabled stays out, whatever the browser knows, and is told what a stranger is told.
func TestKnownBrowserOfADisabledPerson(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	mine := d.Browser()
	d.signIn(mine, providertest.AliceLogin, "198.51.100.1")
	user := providertest.Alice()
	user.Disabled = true
	putUser(t, d, user)
	// The sign-in has ended with the person, so the form has to be a new one.
	form := passwordForm(t, d.Server, mine, providertest.AliceLogin, providertest.AlicePassword)
	for i := range 5 {
		reply := d.try(mine, form, "203.0.113.1")
		if !isSignIn(reply) || !strings.Contains(reply.Body, "The user name or the password is wrong.") {
			t.Fatalf("try %d: %d %s", i, reply.Status, reply.Body)
		}
	}
	if reply := d.try(mine, form, "203.0.113.1"); reply.Status != http.StatusTooManyRequests {
		t.Errorf("the right password of a disabled person is no failure: %d", reply.Status)
	}
	putUser(t, d, providertest.Alice())
	d.Clock.Advance(time.Second)
	if reply := d.signIn(mine, providertest.AliceLogin, "203.0.113.1"); !signedIn(reply) {
		t.Errorf("enabled again: %d", reply.Status)
	}
}

func putUser(t *testing.T, d *door, user *storage.User) {
	t.Helper()
	if err := d.Store.PutUser(t.Context(), user); err != nil {
		t.Fatal(err)
	}
}

func TestKnownCookie(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		s := providertest.NewServer(t, providertest.Options{HTTP: plain})
		browser := s.Browser()
		if wrong := s.Post(t.Context(), browser, "/login", passwordForm(t, s, browser, providertest.AliceLogin, "wrong")); strings.Contains(strings.Join(wrong.Header.Values("Set-Cookie"), "\n"), "-known") {
			t.Errorf("noted without a sign-in: %v", wrong.Header)
		}
		reply := s.SignIn(t.Context(), browser, ask(t, s, browser, "web"))
		var found bool
		for _, c := range (&http.Response{Header: reply.Header}).Cookies() {
			if !strings.HasSuffix(c.Name, "qrgrant-known") {
				continue
			}
			found = true
			if strings.HasPrefix(c.Name, "__Host-") == plain || c.Secure == plain || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.MaxAge != 180*24*60*60 {
				t.Errorf("cookie %s", c)
			}
		}
		if !found {
			t.Error("nothing was noted")
		}
	}
}

// The note of a known browser outlives the server key that sealed it.
func TestKnownBrowserOutlivesTheServerKey(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	mine := d.Browser()
	if reply := d.signIn(mine, providertest.AliceLogin, "198.51.100.1"); !signedIn(reply) {
		t.Fatalf("%d %s", reply.Status, reply.Body)
	}
	old := serverKeys(t, d.Server)[0].ID
	d.Clock.Advance(89 * day)
	sweep(t, d.Server)
	d.Clock.Advance(4 * day)
	sweep(t, d.Server)
	sweep(t, d.Server)
	if keys := serverKeys(t, d.Server); len(keys) != 2 || keys[0].ID != old {
		t.Fatalf("%d server keys", len(keys))
	}
	const here = "203.0.113.1"
	d.attacked(providertest.AliceLogin, here)
	if reply := d.signIn(d.Browser(), providertest.AliceLogin, here); reply.Status != http.StatusTooManyRequests {
		t.Fatalf("a stranger: %d", reply.Status)
	}
	if reply := d.signIn(mine, providertest.AliceLogin, here); !signedIn(reply) {
		t.Errorf("the known browser: %d", reply.Status)
	}
}
