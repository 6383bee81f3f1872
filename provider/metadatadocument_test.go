package provider_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/internal/hostile"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
)

// describedApp is a client that a document describes, and the server of the document.
type describedApp struct {
	t *testing.T
	// id is the address of the document.
	id       string
	redirect string

	mu     sync.Mutex
	answer http.Handler
	reads  int
}

func newDescribedApp(t *testing.T) *describedApp {
	t.Helper()
	a := &describedApp{t: t, redirect: "https://app.example/callback"}
	a.id = hostile.Start(t, a) + "/client"
	a.describe(nil, "")
	return a
}

func (a *describedApp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.reads++
	answer := a.answer
	a.mu.Unlock()
	answer.ServeHTTP(w, r)
}

func (a *describedApp) become(h http.Handler) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = h
}

func (a *describedApp) read() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reads
}

// describe serves a good document with some members in place of others; nil leaves one out.
func (a *describedApp) describe(changes jsonObject, cacheControl string) {
	a.t.Helper()
	body := a.document(changes)
	a.become(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if cacheControl != "" {
			w.Header().Set("Cache-Control", cacheControl)
		}
		_, _ = w.Write(body)
	}))
}

func (a *describedApp) document(changes jsonObject) []byte {
	a.t.Helper()
	all := jsonObject{
		"client_id": a.id, "client_name": "Described App", "redirect_uris": []string{a.redirect},
		"grant_types": []string{"authorization_code", "refresh_token"},
	}
	for name, value := range changes {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	body, err := json.Marshal(all)
	if err != nil {
		a.t.Fatal(err)
	}
	return body
}

// server is a provider that accepts documents, from loopback too.
func (a *describedApp) server(o providertest.Options) *providertest.Server {
	a.t.Helper()
	o.Change = func(c *provider.Config) {
		c.ClientMetadata = true
		c.FetchNetworks, c.FetchRoots = hostile.Networks(), hostile.Roots(a.t)
	}
	return providertest.NewServer(a.t, o)
}

func (a *describedApp) query(challenge string, changes url.Values) url.Values {
	q := url.Values{
		"client_id": {a.id}, "response_type": {"code"}, "redirect_uri": {a.redirect}, "scope": {"openid offline_access"},
		"state": {"state-of-a-test"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"},
	}
	for name, values := range changes {
		q[name] = values
	}
	return q
}

// open asks for an authorization in a browser without a sign-in.
func (a *describedApp) open(s *providertest.Server) *providertest.Reply {
	a.t.Helper()
	_, challenge := providertest.Verifier()
	return s.Get(a.t.Context(), s.Browser(), "/authorize?"+a.query(challenge, nil).Encode())
}

// known reports whether the provider shows the sign-in page to the client's request.
func (a *describedApp) known(s *providertest.Server) bool {
	a.t.Helper()
	reply := a.open(s)
	if reply.Header.Get("Location") != "" {
		a.t.Errorf("an open redirect to %q", reply.Header.Get("Location"))
	}
	return reply.Status == http.StatusOK && reply.Hidden("next") != ""
}

// signIn runs the whole flow for Alice.
func (a *describedApp) signIn(s *providertest.Server, browser *http.Client) *providertest.Reply {
	a.t.Helper()
	verifier, challenge := providertest.Verifier()
	back := s.Code(a.t.Context(), browser, a.query(challenge, nil))
	reply := s.Post(a.t.Context(), s.Client(), "/token", url.Values{
		"grant_type": {"authorization_code"}, "code": {back.Location().Query().Get("code")}, "redirect_uri": {a.redirect},
		"client_id": {a.id}, "code_verifier": {verifier},
	})
	if reply.Status != http.StatusOK {
		a.t.Fatalf("%d %s (redirect %q, page %s)", reply.Status, reply.Body, back.Header.Get("Location"), back.Body)
	}
	return reply
}

func (a *describedApp) refresh(s *providertest.Server, tokens *providertest.Reply) *providertest.Reply {
	a.t.Helper()
	return s.Post(a.t.Context(), s.Client(), "/token", url.Values{
		"grant_type": {"refresh_token"}, "refresh_token": {tokens.Text("refresh_token")}, "client_id": {a.id},
	})
}

func TestMetadataDocumentToTokensAndRefreshAfterARestart(t *testing.T) {
	t.Parallel()
	app := newDescribedApp(t)
	s := app.server(providertest.Options{})
	if document := s.Get(t.Context(), s.Client(), "/.well-known/oauth-authorization-server"); document.JSON()["client_id_metadata_document_supported"] != true {
		t.Error(document.Body)
	}

	browser := s.Browser()
	_, challenge := providertest.Verifier()
	page := s.SignIn(t.Context(), browser, s.Get(t.Context(), browser, "/authorize?"+app.query(challenge, nil).Encode()))
	host := strings.TrimSuffix(strings.TrimPrefix(app.id, "https://"), "/client")
	if !strings.Contains(page.Body, "<strong>"+host+" (Described App)</strong>") {
		t.Errorf("the consent page does not say whose document it is: %s", page.Body)
	}
	if _, err := s.Store.Client(t.Context(), app.id); err == nil {
		t.Error("the client is stored before anybody granted it anything")
	}

	tokens := app.signIn(s, browser)
	stored, err := s.Store.Client(t.Context(), app.id)
	if err != nil || stored.Source != storage.ClientMetadata || stored.PKCEOptional || stored.FirstParty || stored.Approver || stored.QR.Enabled {
		t.Fatalf("%+v, %v", stored, err)
	}
	if reply := s.Bearer(t.Context(), "/userinfo", tokens.Text("access_token")); reply.Text("sub") != providertest.AliceSubject {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}

	reads := app.read()
	app.become(http.NotFoundHandler())
	again := app.server(providertest.Options{Store: s.Store})
	refreshed := app.refresh(again, tokens)
	if refreshed.Status != http.StatusOK || refreshed.Text("access_token") == "" {
		t.Errorf("%d %s", refreshed.Status, refreshed.Body)
	}
	if reply := again.Bearer(t.Context(), "/userinfo", refreshed.Text("access_token")); reply.Status != http.StatusOK {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	if app.read() != reads {
		t.Error("the document was read for what is no authorization")
	}
}

func TestMetadataDocumentIsAlwaysAskedAbout(t *testing.T) {
	t.Parallel()
	app := newDescribedApp(t)
	s := app.server(providertest.Options{})
	browser := s.Browser()
	app.signIn(s, browser)
	_, challenge := providertest.Verifier()
	if page := s.Get(t.Context(), browser, "/authorize?"+app.query(challenge, nil).Encode()); page.Hidden("request") == "" {
		t.Errorf("%d %q %s", page.Status, page.Header.Get("Location"), page.Body)
	}
	silent := s.Get(t.Context(), browser, "/authorize?"+app.query(challenge, url.Values{"prompt": {"none"}}).Encode())
	if got := silent.Location().Query().Get("error"); got != "consent_required" {
		t.Errorf("prompt=none: %q", got)
	}
}

func TestBadMetadataDocuments(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]jsonObject{
		"the id of another client":        {"client_id": "https://other.example/client"},
		"no id":                           {"client_id": nil},
		"an id that is no text":           {"client_id": 7},
		"a secret":                        {"client_secret": "shared with the world"},
		"the end of a secret":             {"client_secret_expires_at": 0},
		"a way to authenticate by secret": {"token_endpoint_auth_method": "client_secret_basic"},
		"another way by secret":           {"token_endpoint_auth_method": "client_secret_post"},
		"a key without a key":             {"token_endpoint_auth_method": "private_key_jwt"},
		"no redirect URI":                 {"redirect_uris": nil},
		"a redirect URI over http":        {"redirect_uris": []string{"http://app.example/callback"}},
		"the QR grant":                    {"grant_types": []string{"authorization_code", qr.GrantType}},
		"the device grant":                {"grant_types": []string{"authorization_code", qr.DeviceGrantType}},
		"a scope that approves":           {"scope": "openid " + qr.ApproveScope},
		"encryption":                      {"id_token_encrypted_response_alg": "RSA-OAEP"},
		"a statement":                     {"software_statement": "e30.e30."},
		"a sector elsewhere":              {"sector_identifier_uri": "https://other.example/sector"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app := newDescribedApp(t)
			s := app.server(providertest.Options{})
			app.describe(change, "")
			if app.known(s) || app.read() != 1 {
				t.Errorf("the client is known, or its document was read %d times", app.read())
			}
		})
	}
	for name, body := range map[string]string{
		"a member twice": `{"client_id":"ID","client_id":"ID","redirect_uris":["https://app.example/callback"]}`,
		"an array":       `["ID"]`, "two objects": `{"client_id":"ID"}{}`, "no JSON": `<html>`, "nothing": ``,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app := newDescribedApp(t)
			s := app.server(providertest.Options{})
			app.become(hostile.Document("application/json", []byte(strings.ReplaceAll(body, "ID", app.id))))
			if app.known(s) {
				t.Error("the client is known")
			}
		})
	}
}

// Who develops a client sees that it was the document, and the operator why; nobody can make the
// server report failures of its own by that.
func TestMetadataDocumentThatIsNoneIsExplained(t *testing.T) {
	t.Parallel()
	const refused, unread = "The description of this client cannot be used.", "The description of this client could not be read."
	object := func(changes jsonObject) func(*describedApp) {
		return func(a *describedApp) { a.describe(changes, "") }
	}
	answers := func(status int) func(*describedApp) {
		return func(a *describedApp) {
			a.become(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		}
	}
	for name, row := range map[string]struct {
		document       func(*describedApp)
		page, reason   string
		status         int
		privateNetwork bool
	}{
		"the id of another": {document: object(jsonObject{"client_id": "https://other.example/"}), status: 400, page: refused, reason: "its client_id is not the address it was read at"},
		"a secret":          {document: object(jsonObject{"client_secret": "known"}), status: 400, page: refused, reason: "it has a secret in it, or when one ends"},
		"a sector":          {document: object(jsonObject{"sector_identifier_uri": "https://o.example/"}), status: 400, page: refused, reason: "it has a sector_identifier_uri"},
		"bad metadata":      {document: object(jsonObject{"redirect_uris": nil}), status: 400, page: refused, reason: "The redirect_uris are missing or too many."},
		"no JSON":           {document: func(a *describedApp) { a.become(hostile.Document("application/json", []byte("<x>"))) }, status: 400, page: refused, reason: "The body is not a JSON object."},
		"a page":            {document: func(a *describedApp) { a.become(hostile.Document("text/html", []byte("{}"))) }, status: 400, page: refused, reason: "the answer is not one with the status 200"},
		"nothing":           {document: answers(404), status: 400, page: refused, reason: "nothing is there"},
		"a failure":         {document: answers(500), status: 503, page: unread, reason: "its server is slow, or answers with a failure"},
		"a broken connection": {document: func(a *describedApp) {
			a.become(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
		}, status: 503, page: unread, reason: "its server cannot be reached"},
		"in a private network": {document: object(nil), privateNetwork: true, status: 400, page: refused, reason: "its server is in a private network"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app, log := newDescribedApp(t), &logbook{}
			row.document(app)
			s := providertest.NewServer(t, providertest.Options{Logger: log.logger(), Change: func(c *provider.Config) {
				c.ClientMetadata, c.FetchRoots = true, hostile.Roots(t)
				if !row.privateNetwork {
					c.FetchNetworks = hostile.Networks()
				}
			}})
			reply := app.open(s)
			if reply.Status != row.status || !strings.Contains(reply.Body, row.page) {
				t.Errorf("%d %s", reply.Status, reply.Body)
			}
			said := log.text()
			if !strings.Contains(said, `"client_id":"`+app.id+`","reason":"`+row.reason) || strings.Contains(said, `"level":"ERROR"`) || strings.Contains(said, "other.example") {
				t.Errorf("the log: %s", said)
			}
			// What is known of it is not told again.
			if app.open(s); strings.Count(log.text(), `"reason":`) != 1 {
				t.Errorf("the log: %s", log.text())
			}
		})
	}
}

func TestHostileMetadataServers(t *testing.T) {
	t.Parallel()
	app := newDescribedApp(t)
	for _, b := range hostile.Behaviours("application/json", app.document(nil)) {
		t.Run(b.Sentence, func(t *testing.T) {
			t.Parallel()
			app := newDescribedApp(t)
			app.become(b)
			s := app.server(providertest.Options{})
			if reply := app.open(s); reply.Status < 400 || reply.Header.Get("Location") != "" || strings.Contains(reply.Body, "fetch") {
				t.Errorf("%d %v %s", reply.Status, reply.Header, reply.Body)
			}
		})
	}
	t.Run("it is in a private network", func(t *testing.T) {
		t.Parallel()
		app := newDescribedApp(t)
		s := providertest.NewServer(t, providertest.Options{Change: func(c *provider.Config) {
			c.ClientMetadata, c.FetchRoots = true, hostile.Roots(t)
		}})
		if app.known(s) || app.read() != 0 {
			t.Errorf("it was reached %d times", app.read())
		}
	})
	t.Run("it has more to say than anybody reads", func(t *testing.T) {
		t.Parallel()
		app := newDescribedApp(t)
		app.describe(jsonObject{"ignored": strings.Repeat("x", 16<<10)}, "")
		if s := app.server(providertest.Options{}); app.known(s) {
			t.Error("the client is known")
		}
	})
}

func TestMetadataDocumentAddresses(t *testing.T) {
	t.Parallel()
	app := newDescribedApp(t)
	s := app.server(providertest.Options{})
	host := strings.TrimSuffix(app.id, "/client")
	for name, id := range map[string]string{
		"http":              strings.Replace(app.id, "https", "http", 1),
		"no path":           host,
		"a fragment":        app.id + "#a",
		"an empty fragment": app.id + "#",
		"a user":            strings.Replace(app.id, "https://", "https://user@", 1),
		"an empty user":     strings.Replace(app.id, "https://", "https://@", 1),
		"a dot":             host + "/./client",
		"two dots":          host + "/a/../client",
		"dots in disguise":  host + "/a/%2e%2E/client",
		"a dot at the end":  host + "/client/.",
		"a space":           host + "/a client",
		"a backslash":       host + `\client`,
		"upper case":        "HTTPS" + strings.TrimPrefix(app.id, "https"),
		"a long one":        host + "/" + strings.Repeat("c", 256),
		"nothing":           "https://",
	} {
		id := id
		app.describe(jsonObject{"client_id": id}, "")
		_, challenge := providertest.Verifier()
		reply := s.Get(t.Context(), s.Browser(), "/authorize?"+app.query(challenge, url.Values{"client_id": {id}}).Encode())
		if reply.Status != http.StatusBadRequest || reply.Header.Get("Location") != "" {
			t.Errorf("%s: %d %v", name, reply.Status, reply.Header)
		}
	}
	if app.read() != 0 {
		t.Errorf("%d documents were read", app.read())
	}
	app.describe(nil, "")
	if !app.known(s) {
		t.Error("a good address is refused")
	}
}

func TestMetadataDocumentsAreOffUnlessTheyAreOn(t *testing.T) {
	t.Parallel()
	app := newDescribedApp(t)
	s := app.server(providertest.Options{})
	tokens := app.signIn(s, s.Browser())
	reads := app.read()
	off := providertest.NewServer(t, providertest.Options{Store: s.Store, Change: func(c *provider.Config) {
		c.FetchNetworks, c.FetchRoots = hostile.Networks(), hostile.Roots(t)
	}})
	if app.known(off) || app.read() != reads {
		t.Error("a document counts where none should")
	}
	if reply := app.refresh(off, tokens); reply.Status == http.StatusOK {
		t.Error(reply.Body)
	}
}

func TestMetadataDocumentsStayFreshAsLongAsTheySay(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, cacheControl string
		want               time.Duration
	}{
		{"ten minutes", "public, max-age=600", 10 * time.Minute},
		{"a moment is a minute", "max-age=1", time.Minute},
		{"not at all is a minute", "no-store", time.Minute},
		{"a year is a day", "max-age=31536000", 24 * time.Hour},
		{"more than a number can be is a minute", "max-age=99999999999999999999", time.Minute},
		{"nothing said is an hour", "", time.Hour},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			app := newDescribedApp(t)
			s := app.server(providertest.Options{})
			app.describe(nil, row.cacheControl)
			for range 3 {
				if !app.known(s) {
					t.Fatal("the client is not known")
				}
			}
			s.Clock.Advance(row.want - time.Second)
			app.known(s)
			if app.read() != 1 {
				t.Errorf("it was read %d times while it was fresh", app.read())
			}
			s.Clock.Advance(time.Second)
			app.known(s)
			if app.read() != 2 {
				t.Errorf("it was read %d times", app.read())
			}
		})
	}
}

func TestAChangedMetadataDocumentCounts(t *testing.T) {
	t.Parallel()
	app := newDescribedApp(t)
	s := app.server(providertest.Options{})
	app.signIn(s, s.Browser())
	app.describe(jsonObject{"redirect_uris": []string{"https://elsewhere.example/callback"}}, "")
	s.Clock.Advance(time.Hour)
	if app.known(s) {
		t.Error("the redirect URI of the former document counts")
	}
	stored, err := s.Store.Client(t.Context(), app.id)
	if err != nil || stored.RedirectURIs[0] != "https://elsewhere.example/callback" {
		t.Errorf("%+v, %v", stored, err)
	}
}

func TestAMetadataDocumentThatIsGone(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusNotFound, http.StatusGone} {
		app := newDescribedApp(t)
		s := app.server(providertest.Options{})
		tokens := app.signIn(s, s.Browser())
		app.become(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		if !app.known(s) {
			t.Error("a fresh document was looked for")
		}
		s.Clock.Advance(5 * time.Minute)
		access := app.refresh(s, tokens)
		s.Clock.Advance(time.Hour - 5*time.Minute)
		if app.known(s) {
			t.Errorf("%d: the client is known", status)
		}
		again := app.server(providertest.Options{Store: s.Store})
		again.Clock.Advance(time.Hour)
		for name, server := range map[string]*providertest.Server{"here": s, "after a restart": again} {
			if reply := app.refresh(server, access); reply.Status != http.StatusUnauthorized {
				t.Errorf("%d, %s: %d %s", status, name, reply.Status, reply.Body)
			}
		}
		// When it is back, so is the client.
		app.describe(nil, "")
		s.Clock.Advance(10 * time.Second)
		if !app.known(s) {
			t.Errorf("%d: the client is not known again", status)
		}
		if reply := app.refresh(s, access); reply.Status != http.StatusOK {
			t.Errorf("%d: %d %s", status, reply.Status, reply.Body)
		}
	}
}

func TestAMetadataDocumentThatCannotBeReadForTheMoment(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]http.Handler{
		"its server fails":        http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }),
		"a page is in its place":  hostile.Document("text/html", []byte("<html>")),
		"it is about another one": hostile.Document("application/json", []byte(`{"client_id":"https://other.example/"}`)),
	} {
		for _, stored := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stored %t", name, stored), func(t *testing.T) {
				t.Parallel()
				app := newDescribedApp(t)
				s := app.server(providertest.Options{})
				if stored {
					app.signIn(s, s.Browser())
				} else if !app.known(s) {
					t.Fatal("the client is not known")
				}
				app.become(failure)
				s.Clock.Advance(time.Hour)
				if !app.known(s) || app.read() != 2 {
					t.Errorf("the client is not known, or its document was read %d times", app.read())
				}
				if app.known(s); app.read() != 2 {
					t.Error("its server got no rest")
				}
				s.Clock.Advance(24*time.Hour - time.Second)
				if !app.known(s) {
					t.Error("the client is not known any more")
				}
				s.Clock.Advance(time.Second)
				if app.known(s) {
					t.Error("the client is known for ever")
				}
			})
		}
	}
}

func TestAClientOfTheOperatorWinsOverADocument(t *testing.T) {
	t.Parallel()
	app := newDescribedApp(t)
	s := app.server(providertest.Options{Clients: []*storage.Client{{ID: app.id, Name: "Ours", RedirectURIs: []string{app.redirect}, Scopes: []string{"openid", "offline_access"}}}})
	if page := app.open(s); !strings.Contains(page.Body, "Ours") || app.read() != 0 {
		t.Errorf("%d reads, %s", app.read(), page.Body)
	}
}

func TestADisabledClientStaysSoWhateverItsDocumentSays(t *testing.T) {
	t.Parallel()
	app := newDescribedApp(t)
	s := app.server(providertest.Options{})
	tokens := app.signIn(s, s.Browser())
	stored, err := s.Store.Client(t.Context(), app.id)
	if err != nil {
		t.Fatal(err)
	}
	stored.Disabled = true
	if err := s.Store.PutClient(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if app.known(s) {
			t.Error("the client is known")
		}
		s.Clock.Advance(5 * time.Hour)
	}
	if reply := app.refresh(s, tokens); reply.Status != http.StatusUnauthorized {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
}

func TestAMetadataDocumentIsReadOnceForAllWhoAsk(t *testing.T) {
	t.Parallel()
	const askers = 8
	app := newDescribedApp(t)
	s := app.server(providertest.Options{})
	body := app.document(nil)
	var asking sync.WaitGroup
	asking.Add(askers)
	app.become(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asking.Wait()
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}))
	var done sync.WaitGroup
	for range askers {
		done.Go(func() {
			asking.Done()
			if !app.known(s) {
				t.Error("the client is not known")
			}
		})
	}
	done.Wait()
	if app.read() != 1 {
		t.Errorf("it was read %d times", app.read())
	}
}

// Where others have taken the places, nobody was asked: the document is read as soon as there is one.
func TestAMetadataDocumentWhenBusy(t *testing.T) {
	t.Parallel()
	held, release := make(chan struct{}), make(chan struct{})
	slow := hostile.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		held <- struct{}{}
		<-release
		http.NotFound(w, r)
	}))
	app := newDescribedApp(t)
	s := app.server(providertest.Options{})
	_, challenge := providertest.Verifier()
	var group sync.WaitGroup
	for n := range 8 {
		query := app.query(challenge, url.Values{"client_id": {fmt.Sprintf("%s/%d", slow, n)}})
		group.Go(func() { s.Get(t.Context(), s.Client(), "/authorize?"+query.Encode()) })
		<-held
	}
	if reply := app.open(s); reply.Status != http.StatusServiceUnavailable || app.read() != 0 {
		t.Errorf("%d %s, %d reads", reply.Status, reply.Body, app.read())
	}
	close(release)
	group.Wait()
	if !app.known(s) {
		t.Error("the document is not read at once")
	}
}

func TestANetworkCannotHaveUsReadAnyNumberOfDocuments(t *testing.T) {
	t.Parallel()
	app := newDescribedApp(t)
	s := app.server(providertest.Options{})
	app.become(http.NotFoundHandler())
	ask := func(n int) int {
		t.Helper()
		_, challenge := providertest.Verifier()
		return s.Get(t.Context(), s.Client(), "/authorize?"+app.query(challenge, url.Values{"client_id": {fmt.Sprintf("%s/%d", app.id, n)}}).Encode()).Status
	}
	for n := range 60 {
		if status := ask(n); status != http.StatusBadRequest {
			t.Fatalf("number %d: %d", n, status)
		}
	}
	if status := ask(60); status != http.StatusServiceUnavailable || app.read() != 60 {
		t.Errorf("%d, %d reads", status, app.read())
	}
	s.Clock.Advance(time.Minute)
	if ask(61); app.read() != 61 {
		t.Errorf("%d reads", app.read())
	}
}

func TestMetadataDocumentWithAKey(t *testing.T) {
	t.Parallel()
	app := newDescribedApp(t)
	key := providertest.NewClientKey(t, jose.ES256, "one")
	app.describe(jsonObject{"token_endpoint_auth_method": "private_key_jwt", "jwks": providertest.JWKS(key)}, "")
	s := app.server(providertest.Options{})
	// Nobody has granted it anything yet: its document is read for what it pushes.
	verifier, challenge := providertest.Verifier()
	pushed := s.PostSigned(t.Context(), key, app.id, "/par", app.query(challenge, nil))
	if pushed.Status != http.StatusCreated {
		t.Fatalf("%d %s", pushed.Status, pushed.Body)
	}
	back := s.Code(t.Context(), s.Browser(), url.Values{"client_id": {app.id}, "request_uri": {pushed.Text("request_uri")}})
	form := url.Values{
		"grant_type": {"authorization_code"}, "code": {back.Location().Query().Get("code")}, "redirect_uri": {app.redirect},
		"client_id": {app.id}, "code_verifier": {verifier},
	}
	if reply := s.Post(t.Context(), s.Client(), "/token", form); reply.Status != http.StatusUnauthorized {
		t.Errorf("without a proof: %d %s", reply.Status, reply.Body)
	}
	if reply := s.PostSigned(t.Context(), key, app.id, "/token", form); reply.Status != http.StatusOK {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
}
