package main_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	qrgrant "github.com/qrgrant/qrgrant/cmd/qrgrant"
)

// A change to the configuration while it is being read is seen as a change afterwards.
func TestChangeWhileReading(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "x.yaml")
	text := []byte("db: x.db\nusers:\n  - {login: alice, password_env: ALICE_PASSWORD}\n")
	write(t, name, text)
	var edit sync.Once
	changed, err := qrgrant.SettingsChanged(name, func(variable string) string {
		if variable == "ALICE_PASSWORD" {
			// The file has been read by now, or nobody would ask.
			edit.Do(func() { write(t, name, append(text, "# a change\n"...)) })
			return "rain-on-the-roof"
		}
		return ""
	})
	if err != nil || !changed {
		t.Errorf("changed %v, %v", changed, err)
	}
}

// announced sends this process SIGHUP when the server says that it is there.
type announced struct{ bytes.Buffer }

func (a *announced) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("serves")) {
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			return 0, err
		}
	}
	return a.Buffer.Write(p)
}

// A signal that comes with the line that says the server is there is caught already; before, it
// ended this process.
func TestHangupAtTheStart(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x.yaml"), nil)
	logged, log := io.Pipe()
	taken := make(chan struct{})
	go func() {
		var text bytes.Buffer
		part := make([]byte, 4<<10)
		for told := false; ; {
			n, err := logged.Read(part)
			text.Write(part[:n])
			if !told && bytes.Contains(text.Bytes(), []byte("was taken over")) {
				told = true
				close(taken)
			}
			if err != nil {
				return
			}
		}
	}()
	code := qrgrant.RunUntil(t.Context(), taken, &announced{}, log, "serve", "--addr", "127.0.0.1:0",
		"--db", filepath.Join(dir, "x.db"), "--config", filepath.Join(dir, "x.yaml"))
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-taken:
	default:
		t.Errorf("it ended with %d", code)
	}
}
