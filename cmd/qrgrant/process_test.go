package main_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for a process; a test that reaches it has failed.
const patience = 60 * time.Second

// process is a running qrgrant whose output can be waited for.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *transcript
	// code gets the exit code once.
	code chan int
}

// transcript is everything a process has written, stdout and stderr apart.
type transcript struct {
	mu      sync.Mutex
	both    bytes.Buffer
	stdout  bytes.Buffer
	changed chan struct{}
}

// stream is one of the two outputs of a process.
type stream struct {
	t      *transcript
	stdout bool
}

func (s stream) Write(p []byte) (int, error) {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	s.t.both.Write(p)
	if s.stdout {
		s.t.stdout.Write(p)
	}
	close(s.t.changed)
	s.t.changed = make(chan struct{})
	return len(p), nil
}

func (t *transcript) look() (text string, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.both.String(), t.changed
}

func (t *transcript) stdoutOnly() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.stdout.Bytes())
}

// start runs qrgrant, which is this test binary under that name (see TestMain).
func start(dir string, env []string, args ...string) (*process, error) {
	cmd := exec.Command("qrgrant", args...)
	cmd.Dir, cmd.Env = dir, env
	p := &process{cmd: cmd, out: &transcript{changed: make(chan struct{})}, code: make(chan int, 1)}
	cmd.Stdout, cmd.Stderr = stream{p.out, true}, stream{p.out, false}
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		err := cmd.Wait()
		var exit *exec.ExitError
		switch {
		case err == nil:
			p.code <- 0
		case errors.As(err, &exit):
			p.code <- exit.ExitCode()
		default:
			p.code <- -2
		}
	}()
	return p, nil
}

// await waits until the output matches and returns the first group. It fails when the process
// has ended without.
func (p *process) await(pattern string) (string, error) {
	expr, err := regexp.Compile(pattern)
	if err != nil {
		return "", err
	}
	over := time.After(patience)
	for {
		text, changed := p.out.look()
		if match := expr.FindStringSubmatch(text); match != nil {
			return match[len(match)-1], nil
		}
		select {
		case <-changed:
		case code := <-p.code:
			p.code <- code
			if text, _ := p.out.look(); expr.MatchString(text) {
				continue
			}
			return "", errors.New("it ended without " + pattern + ":\n" + text)
		case <-over:
			return "", errors.New("no " + pattern + " in:\n" + text)
		}
	}
}

// exit waits for the end and returns the exit code; -1 when a signal killed it.
func (p *process) exit() (int, error) {
	select {
	case code := <-p.code:
		p.code <- code
		return code, nil
	case <-time.After(patience):
		text, _ := p.out.look()
		return 0, errors.New("it did not end:\n" + text)
	}
}

func (p *process) signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// stop ends a process that a test leaves behind; one that has ended already is no fault.
func (p *process) stop() {
	_ = p.signal(syscall.SIGKILL)
	<-p.code
}

// launch starts a process for a Go test and ends it with the test.
func launch(t *testing.T, dir string, env []string, args ...string) *process {
	t.Helper()
	p, err := start(dir, env, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	return p
}
