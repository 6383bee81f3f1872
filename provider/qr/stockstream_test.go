package qr_test

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
)

// In any fosite server a waiting PC may have a stream.
func TestStockServerStreams(t *testing.T) {
	t.Parallel()
	s := newStock(t, nil)
	opened, poll := s.open(nil)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/qr/events", strings.NewReader(poll.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	s.decide(opened, poll, "deny")
	var told []string
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if kind, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			told = append(told, kind)
		}
	}
	// A state that passes quickly may go unseen; the first and the last are always told.
	if len(told) < 2 || told[0] == "denied" || told[len(told)-1] != "denied" {
		t.Errorf("told %q", told)
	}
}
