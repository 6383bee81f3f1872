package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/load"
)

// benchChild is this program again, as a server in a process of its own: its processor time
// and its memory are the server's and nobody else's.
type benchChild struct {
	target load.Target
	cmd    *exec.Cmd
	stdin  io.Closer
	stderr *bytes.Buffer
}

// startChild starts a hidden verb and waits until it says where it listens.
func startChild(ctx context.Context, verb string, args ...string) (*benchChild, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	c := &benchChild{stderr: &bytes.Buffer{}}
	c.cmd = exec.CommandContext(ctx, self, append([]string{verb}, args...)...) //nolint:gosec // G204: this program, and files it made
	// The program may be known under another name than that of its file.
	c.cmd.Args[0] = os.Args[0]
	c.cmd.Stderr = c.stderr
	// When ctx ends the child gets the chance to close its database.
	c.cmd.Cancel = func() error { return c.stdin.Close() }
	c.cmd.WaitDelay = benchPatience
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", verb, err)
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", verb, err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", verb, err)
	}
	address, err := bufio.NewReader(stdout).ReadString('\n')
	if err == nil {
		c.target, err = load.NewTarget("http://" + strings.TrimSpace(address))
	}
	if err != nil {
		return nil, fmt.Errorf("%s did not start: %w", verb, errors.Join(err, c.stop()))
	}
	return c, nil
}

// pid is the number of the process.
func (c *benchChild) pid() int { return c.cmd.Process.Pid }

// ready waits for the first answer.
func (c *benchChild) ready(ctx context.Context) error {
	dial := func() (*load.Conn, error) { return load.Dial(ctx, c.target.Address) }
	return load.FirstAnswer(c.target, dial, "/readyz", benchPatience)
}

// stop ends the process in order and waits for it.
func (c *benchChild) stop() error {
	closed := c.stdin.Close()
	// Wait closes stdin too when ctx has ended, and complains of the second time.
	if errors.Is(closed, os.ErrClosed) {
		closed = nil
	}
	if err := c.cmd.Wait(); err != nil {
		return errors.Join(fmt.Errorf("a measured server ended with: %w %s", err, oneLine(c.stderr.String())), closed)
	}
	return closed
}

// drop ends a process whose database nobody wants: an orderly end would first write down
// every session that is pending.
func (c *benchChild) drop() error {
	if os.Getenv(benchProfile) != "" {
		return c.stop()
	}
	if err := c.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("end a measured server: %w", err)
	}
	var killed *exec.ExitError
	if err := c.cmd.Wait(); err != nil && !errors.As(err, &killed) {
		return fmt.Errorf("end a measured server: %w", err)
	}
	return nil
}

// startTime starts a child, times it from then to its first 200, and stops it.
func startTime(ctx context.Context, verb string, args ...string) (time.Duration, error) {
	begin := time.Now()
	c, err := startChild(ctx, verb, args...)
	if err != nil {
		return 0, err
	}
	err = c.ready(ctx)
	took := time.Since(begin)
	return took, errors.Join(err, c.stop())
}
