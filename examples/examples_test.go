// Package examples_test builds the examples and drives them against a real server.
package examples_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
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
