package provider

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/qrgrant/qrgrant/provider/internal/fetch"
	"github.com/qrgrant/qrgrant/provider/internal/form"
	"github.com/qrgrant/qrgrant/storage"
)

const (
	// documentBody bounds a client's metadata document; the draft recommends 5 KiB.
	documentBody = 16 << 10
	// longestClientID is what drivers take for a key.
	longestClientID = 256
	// documentsKept bounds the documents in memory, those that were not there included.
	documentsKept = 1000
	// documentsPerMinute bounds how many documents one network can have us look for.
	documentsPerMinute = 60
	// A document is taken as it was for as long as its server says, between these two, and for
	// freshUnsaid when it does not say.
	freshAtLeast = time.Minute
	freshAtMost  = 24 * time.Hour
	freshUnsaid  = time.Hour
	// freshGrace is how much longer one is used that cannot be read again for the moment.
	freshGrace = 24 * time.Hour
	// documentPause is how long after a failure nobody looks for the same document: it spares
	// its server, and is no memory of what it said.
	documentPause = 10 * time.Second
)

// documents are the clients whose id is the https address of a document that describes them
// (OAuth Client ID Metadata Document). A document is read when an authorization begins, and never
// elsewhere: a client to which somebody granted something is in the store, so that its tokens
// work as long as they are good, whoever restarts what. What cannot be read again is used for
// freshGrace more; one that is gone is refused everywhere until it is back.
type documents struct {
	enabled  bool
	store    storage.Clients
	fetcher  *fetch.Fetcher
	now      func() time.Time
	logger   *slog.Logger
	read     func(m *clientMetadata, methods ...string) (*storage.Client, error)
	networks *networkLimits

	mu sync.Mutex
	// known holds a *document each, order the same with the least lately used last.
	known map[string]*list.Element
	order *list.List
}

// document is what is known of one address.
type document struct {
	id string
	// client is the last good one; nil before.
	client *storage.Client
	// failed is why there is none, or no newer one; until pause nobody asks again.
	failed error
	pause  time.Time
	// flight is closed when the reading under way is over; nil when none is.
	flight chan struct{}
}

func (p *Provider) newDocuments() *documents {
	return &documents{
		enabled: p.config.ClientMetadata, store: p.config.Store, fetcher: p.fetcher, now: p.config.Now, logger: p.config.Logger,
		read: p.readClient, networks: newNetworkLimits(documentsPerMinute),
		known: make(map[string]*list.Element), order: list.New(),
	}
}

var (
	// errNetworkSpent is why a document was not looked for.
	errNetworkSpent = errors.New("provider: too many documents were asked for from this network")
	// errDocumentRefused says that a document was read and is nothing to use, errDocumentUnread
	// that it could not be read. Why is in the log.
	errDocumentRefused = errors.New("provider: the metadata document of a client was refused")
	errDocumentUnread  = errors.New("provider: the metadata document of a client could not be read")
)

// ofDocuments reports whether an error is about the document of a client, which anybody can cause.
func ofDocuments(err error) bool {
	return errors.Is(err, errDocumentUnread) || errors.Is(err, errNetworkSpent)
}

// documentFault says what is wrong with a document, as the log has it after "because".
type documentFault string

func (f documentFault) Error() string { return "provider: " + string(f) }

type discoveryKey struct{}

// discovering marks the requests that begin an authorization, or go on with one: only for them a
// document or a request object is read, on the account of the network they come from.
func (p *Provider) discovering(next http.HandlerFunc) http.HandlerFunc {
	if !p.config.ClientMetadata && !p.config.RequestURIs {
		return next
	}
	return func(w http.ResponseWriter, r *http.Request) {
		next(w, r.WithContext(context.WithValue(r.Context(), discoveryKey{}, p.clientAddress(r))))
	}
}

// isDocumentID reports whether a client_id is the address of a document: https with a path,
// without user, fragment and dot segments.
func isDocumentID(id string) bool {
	if len(id) > longestClientID || !strings.HasPrefix(id, "https://") || strings.ContainsFunc(id, unfitForURI) || strings.ContainsAny(id, "#@") {
		return false
	}
	u, err := url.Parse(id)
	if err != nil || u.Hostname() == "" || strings.Trim(u.Host, hostCharacters+":[]") != "" || u.Path == "" {
		return false
	}
	for segment := range strings.SplitSeq(u.Path, "/") {
		if segment == "." || segment == ".." {
			return false
		}
	}
	return true
}

// gone reports whether the document of a stored client was not there any more when it was last
// looked for.
func gone(c *storage.Client) bool { return c.FreshUntil.IsZero() }

// client returns what stands for a client: what is stored, or what its document says. stored is
// nil when nothing is; storage.ErrNotFound when there is no such client.
func (d *documents) client(ctx context.Context, id string, stored *storage.Client) (*storage.Client, error) {
	if stored != nil && stored.Source != storage.ClientMetadata {
		return stored, nil
	}
	address, discovering := ctx.Value(discoveryKey{}).(netip.Addr)
	switch {
	case !d.enabled || !isDocumentID(id):
		return nil, storage.ErrNotFound
	case stored != nil && (stored.Disabled || d.now().Before(stored.FreshUntil)):
		return stored, nil
	case discovering:
		return d.look(ctx, id, stored, address)
	case stored == nil || gone(stored):
		return nil, storage.ErrNotFound
	}
	return stored, nil
}

// look returns the client of a document, reading it when nobody has lately.
func (d *documents) look(ctx context.Context, id string, stored *storage.Client, address netip.Addr) (*storage.Client, error) {
	for {
		doc, flight, mine := d.enter(id, stored)
		if doc != nil {
			return d.answer(doc)
		}
		if mine {
			break
		}
		select {
		case <-flight:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	// Others wait for it too: it goes on when the one who asked first hangs up.
	ctx = context.WithoutCancel(ctx)
	doc := d.readNow(ctx, id, address)
	d.tell(ctx, doc)
	if err := d.note(ctx, doc, stored); err != nil {
		return nil, err
	}
	return d.answer(doc)
}

// tell notes for the operator why a document is no client: the client only hears that it is none.
// Nothing in it is the words of whoever serves the document.
func (d *documents) tell(ctx context.Context, doc *document) {
	switch {
	case doc.failed == nil, errors.Is(doc.failed, errNetworkSpent), errors.Is(doc.failed, fetch.ErrBusy):
		return // nothing is wrong, or nobody was asked
	case errors.Is(doc.failed, fetch.ErrRefused):
		d.logger.InfoContext(ctx, "the metadata document of a client was refused", "client_id", doc.id, "reason", documentReason(doc.failed))
	default:
		d.logger.InfoContext(ctx, "the metadata document of a client could not be read", "client_id", doc.id, "reason", documentReason(doc.failed))
	}
}

// documentReason is the fixed sentence for what was wrong.
func documentReason(err error) string {
	var metadata *oauthError
	var content *form.Fault
	var fault documentFault
	var network *url.Error
	refused := errors.Is(err, fetch.ErrRefused)
	switch {
	case errors.As(err, &metadata):
		return metadata.description
	case errors.As(err, &content):
		return content.Sentence
	case errors.As(err, &fault):
		return string(fault)
	case errors.As(err, &network) && refused:
		return "its server is in a private network"
	case errors.As(err, &network):
		return "its server cannot be reached over TLS"
	case errors.Is(err, fetch.ErrGone):
		return "nothing is there: the status is 404 or 410"
	case refused:
		return fmt.Sprintf("the answer is not one with the status 200, of application/json and of at most %d bytes", documentBody)
	}
	return "its server is slow, or answers with a failure of its own"
}

// readNow reads a document, on the account of a network.
func (d *documents) readNow(ctx context.Context, id string, address netip.Addr) (doc *document) {
	var c *storage.Client
	failed := errors.New("provider: the reading of a document ended halfway")
	// Deferred, so that nobody waits for ever should reading panic.
	defer func() { doc = d.leave(id, c, failed) }()
	if d.networks.take(address, d.now()) > 0 {
		failed = errNetworkSpent
		return nil
	}
	c, failed = d.fetch(ctx, id)
	return nil
}

// enter returns what is known when nobody needs to read the document now; else whose reading to
// wait for, or that it is the caller's own.
func (d *documents) enter(id string, stored *storage.Client) (doc *document, flight <-chan struct{}, mine bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	element := d.known[id]
	if element == nil {
		element = d.order.PushFront(&document{id: id})
		d.known[id] = element
		d.prune()
	}
	d.order.MoveToFront(element)
	entry := element.Value.(*document)
	switch {
	case stored == nil:
	case gone(stored):
		// Perhaps another process has found that: it is to be read again, whatever is known here.
		entry.client = nil
	case entry.client == nil || entry.client.FreshUntil.Before(stored.FreshUntil):
		// After a restart, or where another process has read it.
		entry.client = stored
	}
	now := d.now()
	switch {
	case entry.flight != nil:
		return nil, entry.flight, false
	case entry.client != nil && now.Before(entry.client.FreshUntil), now.Before(entry.pause):
		known := *entry
		return &known, nil, false
	}
	entry.flight = make(chan struct{})
	return nil, nil, true
}

// prune forgets the least lately used, but none that is being read.
func (d *documents) prune() {
	for element := d.order.Back(); element != nil && len(d.known) > documentsKept; {
		earlier := element.Prev()
		if entry := element.Value.(*document); entry.flight == nil {
			d.order.Remove(element)
			delete(d.known, entry.id)
		}
		element = earlier
	}
}

// leave notes what a reading has found.
func (d *documents) leave(id string, c *storage.Client, failed error) *document {
	d.mu.Lock()
	defer d.mu.Unlock()
	entry := d.known[id].Value.(*document) // it stays while it is being read
	close(entry.flight)
	entry.flight = nil
	if errors.Is(failed, errNetworkSpent) || errors.Is(failed, fetch.ErrBusy) {
		// Nobody was asked, so that nothing is known: one network must not keep the others out.
		known := *entry
		known.failed = failed
		return &known
	}
	entry.failed = failed
	switch {
	case failed == nil:
		entry.client, entry.pause = c, time.Time{}
	case errors.Is(failed, fetch.ErrGone):
		entry.client = nil
		fallthrough
	default:
		entry.pause = d.now().Add(documentPause)
	}
	known := *entry
	return &known
}

// answer is what the document stands for now. One that is nothing to use is no client, and one
// that could not be read may be one.
func (d *documents) answer(doc *document) (*storage.Client, error) {
	if doc.client != nil && d.now().Before(doc.client.FreshUntil.Add(freshGrace)) {
		c := *doc.client
		return &c, nil
	}
	switch {
	case errors.Is(doc.failed, fetch.ErrRefused):
		return nil, fmt.Errorf("%w: %w", storage.ErrNotFound, errDocumentRefused)
	case errors.Is(doc.failed, errNetworkSpent), errors.Is(doc.failed, fetch.ErrBusy):
		return nil, doc.failed
	}
	return nil, fmt.Errorf("%w: %w", errDocumentUnread, doc.failed)
}

// note brings the row of a client that is stored up to date with its document: changed keys and
// addresses count everywhere at once, and one that is gone is refused everywhere.
func (d *documents) note(ctx context.Context, doc *document, stored *storage.Client) error {
	vanished := errors.Is(doc.failed, fetch.ErrGone)
	switch {
	case stored == nil, doc.failed != nil && !vanished, vanished && gone(stored):
		return nil
	case vanished:
		d.logger.WarnContext(ctx, "the metadata document of a client is gone", "client_id", doc.id)
	}
	err := d.store.UpdateClient(ctx, doc.id, func(row *storage.Client) error {
		if vanished {
			row.FreshUntil = time.Time{}
			return nil
		}
		// The operator may have switched it off while the document was read.
		off := row.Disabled
		*row = *doc.client
		row.Disabled = off
		return nil
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil // the operator has removed it
	}
	return err
}

// keep stores the client of a document to which a person grants something, unless it is.
func (d *documents) keep(ctx context.Context, c *storage.Client) error {
	_, err := d.store.Client(ctx, c.ID)
	if errors.Is(err, storage.ErrNotFound) {
		return d.store.PutClient(ctx, c)
	}
	return err
}

// fetch reads a document. An error that wraps fetch.ErrRefused says that it is nothing to use.
func (d *documents) fetch(ctx context.Context, id string) (*storage.Client, error) {
	answer, err := d.fetcher.Get(ctx, id, documentBody, "application/json")
	if err != nil {
		return nil, err
	}
	c, err := d.parse(id, answer.Body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fetch.ErrRefused, err)
	}
	c.FreshUntil = d.now().Add(documentFresh(answer))
	return c, nil
}

// parse makes a client of its document: the same metadata as at the registration endpoint, but
// for secrets, of which there is no way to share one.
func (d *documents) parse(id string, body []byte) (*storage.Client, error) {
	members, err := form.Object(body)
	if err != nil {
		return nil, err
	}
	m := &clientMetadata{members: members}
	var named string
	m.decode("client_id", &named)
	if named != id {
		return nil, documentFault("its client_id is not the address it was read at")
	}
	if m.has("client_secret") || m.has("client_secret_expires_at") {
		return nil, documentFault("it has a secret in it, or when one ends")
	}
	c, err := d.read(m, authNone, storage.AuthPrivateKeyJWT)
	if err != nil {
		return nil, err
	}
	if c.SectorIdentifierURI != "" {
		return nil, documentFault("it has a sector_identifier_uri")
	}
	c.ID, c.Source = id, storage.ClientMetadata
	return c, nil
}

// documentFresh is for how long a document may be taken as it was.
func documentFresh(document *fetch.Document) time.Duration {
	age, said, sound := document.Age()
	switch {
	case !sound:
		return freshAtLeast
	case !said:
		return freshUnsaid
	}
	return min(max(age, freshAtLeast), freshAtMost)
}

// alwaysAsked reports whether no earlier yes counts: whoever has the address of a document now
// need not be who had it then.
func alwaysAsked(req *authorizeRequest) bool { return req.client.Source == storage.ClientMetadata }

// clientLabel is what people are told of who a client is: beside the name that it gave itself,
// which anybody can choose, the host that its document was read from.
func clientLabel(c *storage.Client) string {
	name := c.Name
	if name == "" {
		name = c.ID
	}
	if c.Source != storage.ClientMetadata {
		return name
	}
	u, err := url.Parse(c.ID)
	switch {
	case err != nil: // it was read from there
		return c.ID
	case c.Name == "":
		return u.Host
	}
	return u.Host + " (" + name + ")"
}
