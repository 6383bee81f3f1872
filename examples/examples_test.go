// Package examples_test builds the examples and drives them against a real server.
package examples_test

import (
	"bufio"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// build compiles the programs of this module and returns the directory they are in.
func build(t *testing.T, packages ...string) string {
	t.Helper()
	dir := t.TempDir()
	args := append([]string{"build", "-o", dir + string(filepath.Separator)}, packages...)
	if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return dir
}

// program is a running program whose standard output is read line by line.
type program struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	read  strings.Builder
}

func start(t *testing.T, name string, args ...string) *program {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stderr = os.Stderr
	// The test's own context would kill: a server must be asked, to remove its files.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &program{cmd: cmd, lines: bufio.NewScanner(out)}
}

// await reads on until a line matches and returns the first group.
func (p *program) await(t *testing.T, pattern string) string {
	t.Helper()
	expr := regexp.MustCompile(pattern)
	for p.lines.Scan() {
		p.read.WriteString(p.lines.Text() + "\n")
		if match := expr.FindStringSubmatch(p.lines.Text()); match != nil {
			return match[1]
		}
	}
	t.Fatalf("no %s in:\n%s", pattern, p.read.String())
	return ""
}

// drain reads what is left, so that the program never waits for a reader, and its end.
func (p *program) drain() error {
	for p.lines.Scan() {
		p.read.WriteString(p.lines.Text() + "\n")
	}
	return p.cmd.Wait()
}

// TestTV signs the television in: the server is `qrgrant dev`, the phone `qrgrant phone`.
func TestTV(t *testing.T) {
	t.Parallel()
	dir := build(t, "../cmd/qrgrant", "./tv")
	qrgrant := filepath.Join(dir, "qrgrant")
	dev := start(t, qrgrant, "dev", "--addr", "127.0.0.1:0")
	issuer := dev.await(t, `serves (\S+) until`)
	password := dev.await(t, `--password-file (\S+)`)

	tv := start(t, filepath.Join(dir, "tv"), "--issuer", issuer)
	code := tv.await(t, `type ([A-Z]{4}-[A-Z]{4})$`)
	phone := exec.CommandContext(t.Context(), qrgrant, "phone", "--issuer", issuer, "--user", "alice",
		"--password-file", password, "--payload", code, "--approve")
	if out, err := phone.CombinedOutput(); err != nil {
		t.Fatalf("phone: %v\n%s", err, out)
	}
	claims := tv.await(t, `^Signed in as alice: (\{.*\})$`)
	if !strings.Contains(claims, `"iss":"`+issuer+`"`) {
		t.Errorf("claims %s", claims)
	}
	if err := tv.drain(); err != nil {
		t.Errorf("tv: %v", err)
	}
	if err := dev.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := dev.drain(); err != nil {
		t.Errorf("dev: %v", err)
	}
	if _, err := os.Stat(password); !os.IsNotExist(err) {
		t.Errorf("dev left its files behind: %v", err)
	}
}

// TestTVSaysWhatIsWrong points the television at nothing.
func TestTVSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := build(t, "./tv")
	tv := exec.CommandContext(t.Context(), filepath.Join(dir, "tv"), "--issuer", "http://127.0.0.1:1")
	tv.Stdout = io.Discard
	var said strings.Builder
	tv.Stderr = &said
	if err := tv.Run(); err == nil || !strings.HasPrefix(said.String(), "tv: find the server: ") {
		t.Errorf("%v: %q", err, said.String())
	}
}

// browse sends the form, or gets the page when there is none, and returns what it leads to.
func browse(t *testing.T, c *http.Client, method, address string, form url.Values) (page, at string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v: %s", resp.Request.URL, resp.Status, err, body)
	}
	return string(body), resp.Request.URL.String()
}

// hidden returns the hidden fields of the form on a page that posts to path.
func hidden(t *testing.T, page, path string) url.Values {
	t.Helper()
	for _, form := range regexp.MustCompile(`(?s)<form[^>]*action="([^"]*)"[^>]*>.*?</form>`).FindAllStringSubmatch(page, -1) {
		if !strings.HasSuffix(form[1], path) {
			continue
		}
		fields := url.Values{}
		for _, m := range regexp.MustCompile(`type="hidden" name="([^"]*)" value="([^"]*)"`).FindAllStringSubmatch(form[0], -1) {
			fields.Set(m[1], html.UnescapeString(m[2]))
		}
		return fields
	}
	t.Fatalf("no form to %s on:\n%s", path, page)
	return nil
}

// TestWebapp signs a person in to the web application that `qrgrant dev` runs, out from there,
// in again, and out at the provider, which tells the application.
func TestWebapp(t *testing.T) {
	t.Parallel()
	dir := build(t, "../cmd/qrgrant", "./webapp")
	dev := start(t, filepath.Join(dir, "qrgrant"), "dev", "--addr", "127.0.0.1:0")
	issuer := dev.await(t, `serves (\S+) until`)
	app := dev.await(t, `web app +(http://127\.0\.0\.1:\d+),`)
	password := dev.await(t, `person +alice, password (\S+)`)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar}
	defer browser.CloseIdleConnections()
	signIn := func() {
		t.Helper()
		page, at := browse(t, browser, http.MethodGet, app+"/login", nil)
		if !strings.HasPrefix(at, issuer+"/") {
			t.Fatalf("the sign-in is at %s", at)
		}
		form := hidden(t, page, "/login")
		form.Set("login", "alice")
		form.Set("password", password)
		if page, at = browse(t, browser, http.MethodPost, issuer+"/login", form); at != app+"/" || !strings.Contains(page, "signed in as <strong>Alice Example") {
			t.Fatalf("at %s: %s", at, page)
		}
	}
	signOut := func(page, want string) {
		t.Helper()
		if _, at := browse(t, browser, http.MethodPost, issuer+"/logout", hidden(t, page, "/logout")); at != want {
			t.Fatalf("signed out at %s, want %s", at, want)
		}
	}

	if page, _ := browse(t, browser, http.MethodGet, app+"/", nil); !strings.Contains(page, `href="/login"`) {
		t.Fatalf("before: %s", page)
	}
	signIn()
	page, _ := browse(t, browser, http.MethodPost, app+"/logout", url.Values{})
	signOut(page, app+"/")
	signIn()
	page, _ = browse(t, browser, http.MethodGet, issuer+"/logout", nil)
	signOut(page, issuer+"/logout")
	for over := time.After(10 * time.Second); ; {
		if page, _ := browse(t, browser, http.MethodGet, app+"/", nil); strings.Contains(page, `href="/login"`) {
			break
		}
		select {
		case <-over:
			t.Fatal("the application was not told of the sign-out")
		case <-time.After(20 * time.Millisecond):
		}
	}

	// The form of another site signs nobody out.
	signIn()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, app+"/logout", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", "https://evil.example")
	if resp, err := browser.Do(req); err != nil || resp.StatusCode != http.StatusForbidden || resp.Body.Close() != nil {
		t.Errorf("a form of another site: %v, %v", resp, err)
	}
	if page, _ := browse(t, browser, http.MethodGet, app+"/", nil); !strings.Contains(page, "signed in as") {
		t.Errorf("after the form of another site: %s", page)
	}

	// A stranger's callback and a forged logout token change nothing.
	for path, form := range map[string]url.Values{"/callback?code=x&state=y": nil, "/backchannel-logout": {"logout_token": {"x.y.z"}}} {
		resp, err := browser.PostForm(app+path, form)
		if form == nil {
			resp, err = browser.Get(app + path)
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	if err := dev.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := dev.drain(); err != nil {
		t.Errorf("dev: %v", err)
	}
}
