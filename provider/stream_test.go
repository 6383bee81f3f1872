package provider_test

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
)

// watcher is a PC that learns of its session by one transport and survives cuts.
type watcher struct {
	// connect begins to watch; cut ends that in the way of the row.
	connect func()
	cut     func(how string)
	// next is the next state that is told; empty at the end.
	next func() string
	// code is the check code that was told last.
	code string
}

// watched is a session with a phone, at either door.
type watched struct {
	s       *providertest.Server
	p       *phone
	payload func() string
	scan    *providertest.Reply
	// cancel gives the session up on the PC's side.
	cancel func()
}

func (w *watched) step(t *testing.T, pc *watcher, name string) {
	t.Helper()
	switch name {
	case "scanned":
		w.scan = w.p.scan(w.payload(), "scanner")
		mustAnswer(t, w.scan, http.StatusOK)
	case "approved":
		mustAnswer(t, w.p.decide(w.scan, "approve", pc.code), http.StatusOK)
	case "denied":
		mustAnswer(t, w.p.decide(w.scan, "deny", ""), http.StatusOK)
	case "cancelled":
		w.cancel()
	case "expired":
		w.s.Clock.Advance(180 * time.Second)
	}
}

// keepMoving moves the clock on until the test ends: a waiter that was about to set its timer
// when the clock jumped would wait for ever.
func keepMoving(t *testing.T, s *providertest.Server) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				s.Clock.Advance(time.Second)
			case <-done:
				return
			}
		}
	}()
}

// streamWatcher watches by the stream that open opens.
func streamWatcher(t *testing.T, s *providertest.Server, open func(l *line) *feed) *watcher {
	t.Helper()
	var (
		l     *line
		f     *feed
		first *qr.Message
	)
	pc := &watcher{
		connect: func() {
			l = newLine(s)
			f = open(l)
			m := f.next()
			first = &m
		},
		cut: func(how string) {
			switch how {
			case "the PC hangs up":
				f.hangUp()
			case "the server cuts":
				s.HTTP.CloseClientConnections()
				s.HTTP.Client().CloseIdleConnections()
				l.cut() // CloseClientConnections does not know of WebSockets
			default:
				l.cut()
			}
			for range f.messages { // what came before the cut is lost
			}
		},
	}
	pc.next = func() string {
		m := qr.Message{}
		if first != nil {
			m, first = *first, nil
		} else {
			m, _ = f.read()
		}
		if m.CheckCode != "" {
			pc.code = m.CheckCode
		}
		return m.Type
	}
	return pc
}

// pollWatcher watches a session of the direct door by long polls.
func pollWatcher(t *testing.T, c *consumption) *watcher {
	t.Helper()
	var (
		held <-chan *providertest.Reply
		seq  string
	)
	ask := func() {
		form := c.tokenForm()
		if seq != "" {
			form.Set("qr_seq", seq)
		}
		held = c.holdForm(t.Context(), 25, form)
	}
	pc := &watcher{}
	pc.connect = func() {
		if seq == "" {
			// The opening has told the first state.
			first := make(chan *providertest.Reply, 1)
			first <- &providertest.Reply{Status: http.StatusBadRequest, Header: http.Header{}, Body: `{"qr_status":"pending","qr_seq":1}`}
			held = first
			return
		}
		ask()
	}
	pc.cut = func(string) {
		// Its answer tells nobody anything.
		c.s.Clock.Advance(25 * time.Second)
		<-held
	}
	over := false
	pc.next = func() string {
		if over {
			return ""
		}
		reply := <-held
		status := reply.Text("qr_status")
		over = status == ""
		switch {
		case reply.Status == http.StatusOK:
			return "approved"
		case reply.Text("error") == "access_denied":
			return "denied"
		case reply.Text("error") == "expired_token":
			return "expired"
		case status == "":
			t.Fatalf("poll: %d %s", reply.Status, reply.Body)
		}
		number, _ := reply.JSON()["qr_seq"].(float64)
		seq = strconv.Itoa(int(number))
		if code := reply.Text("check_code"); code != "" {
			pc.code = code
		}
		if reply.Header.Get("Preference-Applied") == "" && reply.Header.Get("Content-Type") != "" {
			c.s.Clock.Advance(15 * time.Second) // the interval
		}
		ask()
		return strings.Replace(status, "pending", "qr", 1)
	}
	return pc
}

// Every transport tells the same states in the same order, wherever it is cut and however:
// what happened meanwhile is in the first message after it.
func TestTransportsTellTheSameUnderCuts(t *testing.T) {
	t.Parallel()
	for _, script := range [][]string{
		{"qr", "scanned", "approved", "denied"},
		{"qr", "scanned", "approved"},
		{"qr", "scanned", "denied"},
		{"qr", "scanned", "cancelled"},
		{"qr", "expired"},
	} {
		for cut := range script {
			for _, how := range []string{"the PC hangs up", "the line is cut", "the server cuts"} {
				for _, away := range []bool{false, true} {
					for _, transport := range []string{"SSE", "WebSocket", "hosted SSE", "long poll"} {
						if transport == "long poll" && (len(script) > 3 || cut == len(script)-1 || slices.Contains(script, "cancelled") || how != "the line is cut") {
							continue // an approval redeems at once, and an end is answered once
						}
						t.Run(fmt.Sprintf("%s %v %s after %d, away %v", transport, script, how, cut, away), func(t *testing.T) {
							t.Parallel()
							w, pc := watch(t, transport)
							if diff := cmp.Diff(script, play(t, w, pc, script, cut, how, away)); diff != "" {
								t.Error(diff)
							}
						})
					}
				}
			}
		}
	}
}

// watch opens a session at the transport's door.
func watch(t *testing.T, transport string) (*watched, *watcher) {
	t.Helper()
	if transport == "hosted SSE" {
		s := newShop(t, providertest.Options{})
		b := visit(t, s, s.Browser(), "shop")
		frame := b.scanned()
		w := &watched{s: s, p: newPhone(t, s), payload: func() string { return frame }, cancel: func() { mustAnswer(t, b.press("new"), http.StatusSeeOther) }}
		cookies := b.cookies() // a new code takes the old one's cookie away
		return w, streamWatcher(t, s, func(l *line) *feed { return b.hostedEvents(l, cookies) })
	}
	s := providertest.NewServer(t, providertest.Options{})
	c := openQR(t, s, "cli", nil)
	w := &watched{s: s, p: newPhone(t, s), payload: func() string { return payload(c.opened) }, cancel: func() { mustAnswer(t, c.cancel(t.Context()), http.StatusOK) }}
	switch transport {
	case "SSE":
		return w, streamWatcher(t, s, func(l *line) *feed { return c.events(t, l) })
	case "WebSocket":
		return w, streamWatcher(t, s, func(l *line) *feed { return c.socket(t, l) })
	}
	w.payload = func() string { return c.frame(t) }
	return w, pollWatcher(t, c)
}

// play goes through the script and returns what the PC was told; a state that is told again
// is the same.
func play(t *testing.T, w *watched, pc *watcher, script []string, cut int, how string, away bool) []string {
	t.Helper()
	var told []string
	hear := func(want string) {
		for len(told) == 0 || told[len(told)-1] != want {
			state := pc.next()
			if !slices.Contains(script, state) {
				t.Fatalf("told %q and then %q, not %q", told, state, want)
			}
			if len(told) == 0 || told[len(told)-1] != state {
				told = append(told, state)
			}
		}
	}
	pc.connect()
	connected := true
	for i, state := range script {
		if i > 0 {
			w.step(t, pc, state)
		}
		if state == "expired" && connected {
			keepMoving(t, w.s)
		}
		if !connected {
			pc.connect()
			connected = true
		}
		hear(state)
		if i == cut {
			pc.cut(how)
			if connected = !away; connected {
				pc.connect()
			}
		}
	}
	last := script[len(script)-1]
	for connected && last != "approved" {
		state := pc.next()
		if state == "" {
			break
		}
		if state != last {
			t.Errorf("after the end: %s", state)
		}
	}
	return told
}
