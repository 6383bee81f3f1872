package main

import (
	"log/slog"

	"github.com/qrgrant/qrgrant/storage"
)

// Main is the program, for the tests that run this test binary as qrgrant.
func Main() { main() }

// OpenStore opens the database of a server.
func OpenStore(path string, logger *slog.Logger) (storage.Store, error) {
	return openStore(path, logger)
}
