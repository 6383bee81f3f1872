package main

import (
	"context"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"strings"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/storage"
)

// Main is the program, for the tests that run this test binary as qrgrant.
func Main() { main() }

// OpenStore opens the database of a server.
func OpenStore(path string, logger *slog.Logger) (storage.Store, error) {
	return openStore(path, logger)
}

// Listen opens the address of a server.
func Listen(ctx context.Context, addr string) (net.Listener, error) { return listen(ctx, addr) }

// VersionLine is what `qrgrant version` prints.
func VersionLine(info *debug.BuildInfo) string { return versionLine(info) }

// ReadConfig reads and checks a configuration.
func ReadConfig(name string, getenv func(string) string) error {
	_, err := readConfig(name, getenv)
	return err
}

// Configured reads a configuration and returns what it makes of its clients and of the provider.
func Configured(name string, getenv func(string) string) ([]*storage.Client, provider.Config, error) {
	file, err := readConfig(name, getenv)
	if err != nil {
		return nil, provider.Config{}, err
	}
	var clients []*storage.Client
	for i := range file.Clients {
		clients = append(clients, file.Clients[i].record(getenv))
	}
	var made provider.Config
	file.configure(&made)
	return clients, made, nil
}

// ClientKeys are the keys that a client in the file may have.
func ClientKeys() []string { return knownKeys("$.clients[0].id") }

// PlainPeers stands in front of plain HTTP.
func PlainPeers(next http.Handler, trusted []netip.Prefix, logger *slog.Logger) http.Handler {
	return &plainPeers{next: next, trusted: trusted, logger: logger}
}

// SettingsChanged reads the settings of serve and reports whether the configuration has changed
// since.
func SettingsChanged(config string, getenv func(string) string) (bool, error) {
	f := serveFlags{flags: flag.NewFlagSet("serve", flag.ContinueOnError), config: config, addr: "127.0.0.1:0"}
	s, err := f.settings(env{Getenv: getenv, Stderr: io.Discard})
	if err != nil {
		return false, err
	}
	return s.configFile.changed(), nil
}

// RunUntil runs a command line in this process until the channel is closed.
func RunUntil(ctx context.Context, over <-chan struct{}, stdout, stderr io.Writer, args ...string) int {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-over:
		case <-ctx.Done():
		}
		stop()
	}()
	return run(ctx, args, env{Stdin: strings.NewReader(""), Stdout: stdout, Stderr: stderr, Getenv: os.Getenv})
}
