package main_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/player"
	"github.com/qrgrant/qrgrant/provider"
)

// Whoever an administrator keeps out stays out: sign-ins and tokens from before another password,
// a locked account or a client that was switched off are dead and stay dead, whichever way the
// administrator says so, with a server or without.
func TestAdministratorEndsSignIns(t *testing.T) {
	t.Parallel()
	a := newAdministered(t)
	a.restart()
	// The same configuration again ends nothing: a reload must not sign everybody out.
	alice, bob := a.signIn("alice", "rain-on-the-roof"), a.signIn("bob", "first")
	a.reload("")
	a.restart()
	a.wants("the same configuration", alice, true)
	a.wants("nothing of his", bob, true)

	a.qrgrant("second", "user", "passwd", "bob", "--db", "x.db")
	a.wants("another password", bob, false)
	a.wants("somebody else's password", alice, true)
	bob = a.signIn("bob", "second")
	a.qrgrant("", "user", "disable", "bob", "--db", "x.db")
	a.wants("locked", bob, false)
	a.qrgrant("", "user", "disable", "bob", "--undo", "--db", "x.db")
	a.wants("unlocked", bob, false)
	bob = a.signIn("bob", "second")
	a.qrgrant("", "client", "disable", "app", "--db", "x.db")
	a.wants("switched off", bob, false)
	a.qrgrant("", "client", "disable", "app", "--undo", "--db", "x.db")
	a.wants("switched on", bob, false)
	a.wants("another client", alice, true)

	bob = a.signIn("bob", "second")
	a.stop()
	a.qrgrant("third", "user", "passwd", "bob", "--db", "x.db")
	a.restart()
	a.wants("another password while no server ran", bob, false)
	bob = a.signIn("bob", "third")
	a.stop()
	a.qrgrant("", "user", "disable", "bob", "--db", "x.db")
	a.qrgrant("", "user", "disable", "bob", "--undo", "--db", "x.db")
	a.restart()
	a.wants("locked while no server ran", bob, false)
}

// The same for what the configuration decides.
func TestConfigurationEndsSignIns(t *testing.T) {
	t.Parallel()
	a := newAdministered(t)
	a.restart()
	carol := a.signIn("carol", "here")
	a.reload("hash")
	a.wants("another password", carol, false)
	carol = a.signIn("carol", "there")
	alice := a.signIn("alice", "rain-on-the-roof")
	a.reload("hash locked")
	a.wants("locked", carol, false)
	a.reload("hash")
	a.wants("unlocked", carol, false)
	a.wants("somebody else", alice, true)
	a.reload("hash off")
	a.wants("switched off", alice, false)
	a.reload("hash")
	a.wants("switched on", alice, false)
	alice = a.signIn("alice", "rain-on-the-roof")
	a.env = []string{"ALICE_PASSWORD=sun-on-the-roof"}
	a.restart()
	a.wants("another password at the start", alice, false)
}

// administered is a server and the commands of its administrator.
type administered struct {
	t   *testing.T
	dir string
	env []string
	// addr stays the same, and with it the issuer, for which alone a token is good.
	addr, issuer string
	server       *process
	hashes       map[string]string
	// written counts the configurations.
	written int
}

func newAdministered(t *testing.T) *administered {
	t.Helper()
	a := &administered{t: t, dir: t.TempDir(), addr: "127.0.0.1:0", env: []string{"ALICE_PASSWORD=rain-on-the-roof"}, hashes: map[string]string{}}
	for _, password := range []string{"here", "there"} {
		var err error
		if a.hashes[password], err = provider.HashPassword(password); err != nil {
			t.Fatal(err)
		}
	}
	a.configure("app")
	a.restart()
	a.qrgrant("first", "user", "add", "bob", "--db", "x.db")
	// What is taken out of the file is the commands' from then on.
	a.configure("")
	return a
}

// configure writes the configuration; how says in what it differs from the first one.
func (a *administered) configure(how string) {
	a.t.Helper()
	text := "clients:\n" +
		"  - {id: phone, approver: true, first_party: true, redirect_uris: [http://127.0.0.1/callback], scopes: [openid, 'qr:approve'], disabled: false}\n" +
		"users:\n  - {login: alice, password_env: ALICE_PASSWORD}\n  - {login: carol, password_hash: '" + a.hashes["here"] + "', disabled: false}\n"
	if strings.Contains(how, "hash") {
		text = strings.Replace(text, a.hashes["here"], a.hashes["there"], 1)
	}
	if strings.Contains(how, "locked") {
		text = strings.Replace(text, "', disabled: false", "', disabled: true", 1)
	}
	if strings.Contains(how, "off") {
		text = strings.Replace(text, "], disabled: false", "], disabled: true", 1)
	}
	if strings.Contains(how, "app") {
		text = strings.Replace(text, "users:", "  - {id: app, approver: true, first_party: true, redirect_uris: [http://127.0.0.1/callback], scopes: [openid, 'qr:approve']}\nusers:", 1)
	}
	// Each has another number of clients, which the log tells.
	a.written++
	for i := range a.written {
		text = strings.Replace(text, "users:", fmt.Sprintf("  - {id: filler-%d, disabled: true}\nusers:", i), 1)
	}
	write(a.t, filepath.Join(a.dir, "new.yaml"), []byte(text))
	if err := os.Rename(filepath.Join(a.dir, "new.yaml"), filepath.Join(a.dir, "x.yaml")); err != nil {
		a.t.Fatal(err)
	}
}

// reload takes a configuration over. It asks by signal, for one that is the same too.
func (a *administered) reload(how string) {
	a.t.Helper()
	a.configure(how)
	if err := a.server.signal(syscall.SIGHUP); err != nil {
		a.t.Fatal(err)
	}
	if _, err := a.server.await(fmt.Sprintf("configuration was taken over\" clients=%d ", a.written+1)); err != nil {
		a.t.Fatal(err)
	}
}

// signIn signs a person in at the phone app, or bob at the client app, and returns the access token.
func (a *administered) signIn(login, password string) (accessToken string) {
	a.t.Helper()
	client := "phone"
	if login == "bob" {
		client = "app"
	}
	phone := &player.Approver{Issuer: a.issuer, ClientID: client, RedirectURI: "http://127.0.0.1/callback", Login: login, Password: password, HTTP: &http.Client{}}
	if err := phone.SignIn(a.t.Context()); err != nil {
		a.t.Fatalf("%s cannot sign in: %v", login, err)
	}
	a.wants("just signed in", phone.AccessToken(), true)
	return phone.AccessToken()
}

// wants checks whether an access token is as good as when it was made.
func (a *administered) wants(when, accessToken string, alive bool) {
	a.t.Helper()
	err := get(a.t.Context(), http.DefaultClient, a.issuer+"/userinfo", accessToken)
	if (err == nil) != alive || err != nil && !strings.HasPrefix(err.Error(), "401") {
		a.t.Errorf("%s: %v", when, err)
	}
}

func (a *administered) stop() {
	a.t.Helper()
	if err := a.server.signal(syscall.SIGTERM); err != nil {
		a.t.Fatal(err)
	}
	if code, err := a.server.exit(); err != nil || code != 0 {
		a.t.Fatalf("the server ended with %d, %v", code, err)
	}
	a.server = nil
}

// restart starts the server, after the end of the one before.
func (a *administered) restart() {
	a.t.Helper()
	if a.server != nil {
		a.stop()
	}
	a.server = launch(a.t, a.dir, a.env, "serve", "--addr", a.addr, "--db", "x.db", "--config", "x.yaml")
	var err error
	if a.issuer, err = a.server.await(`serves (\S+) on`); err != nil {
		a.t.Fatal(err)
	}
	a.addr = strings.TrimPrefix(a.issuer, "http://")
}

// qrgrant runs a verb with a line on its standard input.
func (a *administered) qrgrant(line string, args ...string) {
	a.t.Helper()
	p := launch(a.t, a.dir, nil, args...)
	_, err := p.stdin.Write([]byte(line + "\n"))
	if err != nil {
		a.t.Fatal(err)
	}
	if code, err := p.exit(); err != nil || code != 0 {
		text, _ := p.out.look()
		a.t.Fatalf("%v ended with %d, %v:\n%s", args, code, err, text)
	}
}
