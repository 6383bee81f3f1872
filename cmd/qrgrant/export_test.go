package main

import (
	"context"
	"log/slog"
	"net"
	"runtime/debug"

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
