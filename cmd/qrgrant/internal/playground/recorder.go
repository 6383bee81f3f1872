package playground

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// keptEntries is how many exchanges are remembered; older ones are forgotten.
	keptEntries = 400
	// maxBody is how much of a body is looked at. A longer one is not shown at all: half a
	// document cannot be masked for certain.
	maxBody = 256 << 10
)

// Entry is one exchange, or one message of a stream, as it may be shown: nothing in it is secret.
type Entry struct {
	// ID is the number of the exchange; Revision grows with every change of any entry.
	ID       int64 `json:"id"`
	Revision int64 `json:"revision"`
	// Of is the exchange whose answer a message is a part of; zero for an exchange.
	Of int64     `json:"of,omitempty"`
	At time.Time `json:"at"`
	// Actor is who asked: pc, phone, app, browser or other.
	Actor string `json:"actor"`
	// Steps are those of protocol §11 that it is, as far as it has come.
	Steps  []int  `json:"steps,omitempty"`
	Method string `json:"method,omitempty"`
	Path   string `json:"path"`
	// Minor says that it is metadata, a file or a preflight.
	Minor bool `json:"minor,omitempty"`
	// Request and Answer are headers and body of each, masked.
	Request []string `json:"request,omitempty"`
	Answer  []string `json:"answer,omitempty"`
	// Status is zero while the answer is awaited; Open says that more of it may come.
	Status int   `json:"status,omitempty"`
	Open   bool  `json:"open,omitempty"`
	Millis int64 `json:"millis"`
	// Event is the type of a message.
	Event string `json:"event,omitempty"`
}

// Recorder remembers what passes between clients and the server that Wrap is put around. The
// zero value works; the fields are set before the first request.
type Recorder struct {
	// PC and Phone are the origins of the two sides of the page.
	PC, Phone string
	// PhoneClients are the ids of clients that are phones; AppClients those of web applications.
	PhoneClients, AppClients []string
	// Agent is the User-Agent of the requests that the program itself makes for the phone.
	Agent string

	mu       sync.Mutex
	entries  []Entry
	ids      int64
	revision int64
	changed  chan struct{}
}

// Wrap returns a handler that answers as next does and records it.
func (r *Recorder) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body := takeBody(req)
		seen := r.begin(req, body)
		answer := &answer{ResponseWriter: w, recorder: r, seen: seen}
		defer answer.end()
		next.ServeHTTP(answer, req)
	})
}

// takeBody reads the body before the server does, so that a request that is held shows what it asked.
func takeBody(req *http.Request) []byte {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(req.Body, maxBody+1))
	rest := req.Body
	var again io.Reader = bytes.NewReader(body)
	if err != nil {
		again = io.MultiReader(again, failing{err})
	} else {
		again = io.MultiReader(again, rest)
	}
	req.Body = struct {
		io.Reader
		io.Closer
	}{again, rest}
	return body
}

// failing repeats what went wrong with a body to whoever reads on.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// exchange is what is known of a request while it is answered.
type exchange struct {
	entry Entry
	facts facts
}

func (r *Recorder) begin(req *http.Request, body []byte) *exchange {
	x := &exchange{facts: read(req, body)}
	x.entry = Entry{
		At: time.Now(), Actor: r.actor(req, &x.facts), Method: req.Method, Path: maskAddress(req.URL.RequestURI()),
		Minor: minor(req), Request: requestLines(req, body), Open: true,
	}
	x.entry.Steps = x.facts.begun()
	r.put(&x.entry)
	return x
}

// put stores a new entry, or a new version of one that is there.
func (r *Recorder) put(e *Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.revision++
	e.Revision = r.revision
	if e.ID == 0 {
		r.ids++
		e.ID = r.ids
		if len(r.entries) == keptEntries {
			r.entries = append(r.entries[:0], r.entries[1:]...)
		}
		r.entries = append(r.entries, *e)
	} else {
		for i := range r.entries {
			if r.entries[i].ID == e.ID {
				r.entries[i] = *e
			}
		}
	}
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// Since returns the entries that changed after a revision, in the order of their ids, the
// revision that they are of, and a channel that is closed at the next change.
func (r *Recorder) Since(revision int64) (entries []Entry, now int64, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.entries {
		if r.entries[i].Revision > revision {
			entries = append(entries, r.entries[i])
		}
	}
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return entries, r.revision, r.changed
}

// answer passes an answer on and keeps what is needed of it. http.ResponseController finds
// everything else through Unwrap.
type answer struct {
	http.ResponseWriter
	recorder *Recorder
	seen     *exchange
	status   int
	stream   bool
	body     []byte
	size     int
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader implements http.ResponseWriter. A stream and a change of protocol are shown at once.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 && (status >= http.StatusOK || status == http.StatusSwitchingProtocols) {
		a.status = status
		a.stream = strings.HasPrefix(a.Header().Get("Content-Type"), "text/event-stream")
		if a.stream || status == http.StatusSwitchingProtocols {
			e := &a.seen.entry
			e.Status, e.Answer = status, headerLines(a.Header(), shownAnswerHeaders())
			a.recorder.put(e)
		}
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	a.size += len(p)
	if len(a.body)+len(p) <= maxBody {
		a.body = append(a.body, p...)
	}
	if a.stream {
		a.messages()
	}
	return a.ResponseWriter.Write(p)
}

// messages takes whole server-sent events out of what has been written.
func (a *answer) messages() {
	for {
		block, rest, found := bytes.Cut(a.body, []byte("\n\n"))
		if !found {
			return
		}
		a.body = bytes.Clone(rest)
		event, data := "", ""
		for line := range strings.SplitSeq(string(block), "\n") {
			if value, ok := strings.CutPrefix(line, "event:"); ok {
				event = strings.TrimSpace(value)
			}
			if value, ok := strings.CutPrefix(line, "data:"); ok {
				data += strings.TrimSpace(value)
			}
		}
		if data == "" {
			continue // a comment that keeps the connection alive
		}
		of := &a.seen.entry
		a.recorder.put(&Entry{
			Of: of.ID, At: time.Now(), Actor: of.Actor, Path: of.Path, Event: publicWord(event),
			Answer: bodyLines("application/json", []byte(data), len(data)), Steps: stepsOfMessage(event),
		})
	}
}

// bodyLines shows the body; what the server tells everybody about itself is shown as it is.
func (a *answer) bodyLines() []string {
	if f := a.seen.facts; f.method == http.MethodGet && (strings.HasPrefix(f.path, "/.well-known/") || f.path == "/jwks") && a.size == len(a.body) {
		var out bytes.Buffer
		if json.Indent(&out, a.body, "", "  ") == nil {
			return append([]string{""}, strings.Split(strings.TrimSpace(out.String()), "\n")...)
		}
	}
	return bodyLines(a.Header().Get("Content-Type"), a.body, a.size)
}

// end completes the entry.
func (a *answer) end() {
	e := &a.seen.entry
	e.Open, e.Millis = false, time.Since(e.At).Milliseconds()
	if e.Status = a.status; a.status == 0 {
		e.Status = http.StatusOK
	}
	if !a.stream && a.status != http.StatusSwitchingProtocols {
		e.Answer = append(headerLines(a.Header(), shownAnswerHeaders()), a.bodyLines()...)
		e.Steps = a.seen.facts.ended(e.Actor, e.Status, a.Header().Get("Preference-Applied") != "", a.body)
	}
	a.recorder.put(e)
}
