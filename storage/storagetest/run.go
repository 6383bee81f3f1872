package storagetest

import (
	"testing"

	"github.com/qrgrant/qrgrant/storage"
)

// Open opens an empty store for one test and closes it when the test ends. reopen closes it
// cleanly and opens the same data again.
type Open func(t *testing.T) (store storage.Store, reopen func() storage.Store)

// Run runs the whole suite; every test calls open once.
func Run(t *testing.T, open Open) {
	t.Helper()
	for _, group := range []map[string]func(*testing.T, Open){
		recordTests(), clientTests(), sessionTests(), noticeTests(), consentTests(), tokenTests(), qrTests(), codeTests(), raceTests(),
		unitTests(), watchTests(), sweepTests(), replayTests(), restartTests(),
	} {
		for name, test := range group {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, open)
			})
		}
	}
}
