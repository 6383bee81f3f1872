package playground_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/playground"
	"github.com/qrgrant/qrgrant/provider/qr"
)

const secret = "c0ffee-7h15-15-4-53cr37"

// recorded serves handler behind a recorder.
func recorded(t *testing.T, handler http.HandlerFunc) (*playground.Recorder, *httptest.Server) {
	t.Helper()
	recorder := &playground.Recorder{PC: "http://pc.example", Phone: "http://phone.example", PhoneClients: []string{"mobile"}, AppClients: []string{"webapp"}, Agent: "dev"}
	server := httptest.NewServer(recorder.Wrap(handler))
	t.Cleanup(server.Close)
	return recorder, server
}

func ask(t *testing.T, server *httptest.Server, method, target, kind, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, server.URL+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := server.Client().Transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(answer)
}

// all is everything that the recorder tells, as its page gets it.
func all(t *testing.T, recorder *playground.Recorder) string {
	t.Helper()
	entries, _, _ := recorder.Since(0)
	text, err := json.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Wherever a secret stands, known or not, it is not remembered.
func TestSecretsAreMasked(t *testing.T) {
	t.Parallel()
	const form, document = "application/x-www-form-urlencoded", "application/json"
	for name, row := range map[string]struct{ target, kind, body, header, answerKind, answer, answerHeader string }{
		"password":              {body: "login=alice&password=" + secret, kind: form},
		"password as the login": {body: "login=" + secret, kind: form},
		"device code":           {body: "client_id=cli&device_code=" + secret, kind: form},
		"verifier":              {body: "code_verifier=" + secret, kind: form},
		"client secret":         {body: "client_secret=" + secret, kind: form},
		"unknown field":         {body: "whatever=" + secret, kind: form},
		"name of a field":       {body: secret + "!=1", kind: form},
		"form without a type":   {body: "password=" + secret},
		"form of another type":  {body: "password=" + secret, kind: "text/plain"},
		"JSON that is a form":   {body: "password=" + secret, kind: document},
		"half a document":       {body: `{"confirm_handle":"` + secret, kind: document},
		"two documents":         {body: `{} {"confirm_handle":"` + secret + `"}`, kind: document},
		"handle":                {body: `{"confirm_handle":"` + secret + `","decision":"approve"}`, kind: document},
		"deep in a document":    {body: `{"a":[{"b":{"c":["` + secret + `"]}}]}`, kind: document},
		"a bare string":         {body: `"` + secret + `"`, kind: document},
		"code":                  {target: "?code=" + secret},
		"state":                 {target: "?state=" + secret},
		"broken query":          {target: "?a=%zz&password=" + secret},
		"bearer":                {header: "Authorization: Bearer " + secret},
		"no scheme":             {header: "Authorization: " + secret},
		"cookie of no name":     {header: "Cookie: " + secret},
		"new cookie, no name":   {answerHeader: "Set-Cookie: " + secret + "; Path=/"},
		"a fragment at /Q":      {answerHeader: "Location: http://app.example/Q#code=" + secret},
		"form of no name":       {body: secret, kind: form},
		"proof":                 {header: "DPoP: " + secret},
		"cookie":                {header: "Cookie: a=1; __Host-s=" + secret},
		"tokens":                {answerKind: document, answer: `{"access_token":"` + secret + `","id_token":"` + secret + `"}`},
		"address of a picture":  {answerKind: document, answer: `{"image":"data:image/png;base64,` + secret + `"}`},
		"page":                  {answerKind: "text/html; charset=utf-8", answer: `<input name="sealed" value="` + secret + `">`},
		"way back":              {answerHeader: "Location: http://app.example/callback?code=" + secret + "&state=" + secret + "#" + secret},
		"new cookie":            {answerHeader: "Set-Cookie: s=" + secret + "; Path=/; HttpOnly"},
		"stream":                {answerKind: "text/event-stream", answer: "event: x\ndata: {\"device_code\":\"" + secret + "\"}\n\n:\n\n"},
		"stream of no JSON":     {answerKind: "text/event-stream", answer: "event: " + secret + "!\ndata: " + secret + "\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			recorder, server := recorded(t, func(w http.ResponseWriter, r *http.Request) {
				if got, err := io.ReadAll(r.Body); err != nil || string(got) != row.body {
					t.Errorf("the server got %q, %v", got, err)
				}
				if name, value, ok := strings.Cut(row.answerHeader, ": "); ok {
					w.Header().Set(name, value)
				}
				if row.answerKind != "" {
					w.Header().Set("Content-Type", row.answerKind)
				}
				_, _ = io.WriteString(w, row.answer)
			})
			var header []string
			if name, value, ok := strings.Cut(row.header, ": "); ok {
				header = []string{name, value}
			}
			if status, answer := ask(t, server, http.MethodPost, "/x"+row.target, row.kind, row.body, header...); status != http.StatusOK || answer != row.answer {
				t.Errorf("the client got %d %q", status, answer)
			}
			if text := all(t, recorder); strings.Contains(text, secret) || !strings.Contains(text, `"/x`) {
				t.Errorf("%s", text)
			}
		})
	}
}

// What is public is told, and a body that is too long to be read is not.
func TestPublicIsShown(t *testing.T) {
	t.Parallel()
	recorder, server := recorded(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_request","tries_left":2,"state":"approved"}`)
	})
	ask(t, server, http.MethodPost, "/token?iss=x", "application/x-www-form-urlencoded", "grant_type=authorization_code&client_id=webapp")
	for _, want := range []string{"grant_type=authorization_code", "client_id=webapp", `\"error\": \"invalid_request\"`, `\"tries_left\": 2`, `\"state\": \"approved\"`, "/token?iss=x", `"status":400`} {
		if text := all(t, recorder); !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	long := "scope=" + strings.Repeat("public ", 50_000)
	ask(t, server, http.MethodPost, "/long", "application/x-www-form-urlencoded", long)
	if text := all(t, recorder); strings.Contains(text, "public public") {
		t.Error("a long body is shown")
	}
}

// The steps and the actors are those of protocol §11.
func TestSteps(t *testing.T) {
	t.Parallel()
	grant := "grant_type=" + url.QueryEscape(qr.GrantType)
	for name, row := range map[string]struct {
		method, target, body, origin, answer string
		status                               int
		actor                                string
		steps                                []int
	}{
		"start":            {"POST", "/device_authorization", "client_id=cli", "", `{}`, 200, "pc", []int{1, 2, 3, 4}},
		"refused start":    {"POST", "/device_authorization", "client_id=cli", "", `{}`, 400, "pc", nil},
		"pending":          {"POST", "/token", grant, "", `{"error":"authorization_pending","qr_status":"pending"}`, 400, "pc", []int{5}},
		"scanned":          {"POST", "/token", grant, "", `{"error":"authorization_pending","qr_status":"scanned"}`, 400, "pc", []int{9, 10}},
		"denied":           {"POST", "/token", grant, "", `{"error":"access_denied"}`, 400, "pc", nil},
		"tokens":           {"POST", "/token", grant, "", `{}`, 200, "pc", []int{13}},
		"phone's tokens":   {"POST", "/token", "grant_type=authorization_code&client_id=mobile", "http://phone.example", `{}`, 200, "phone", nil},
		"scan":             {"POST", "/qr/scan", "", "http://phone.example", `{}`, 200, "phone", []int{6, 7, 8}},
		"stale scan":       {"POST", "/qr/scan", "", "http://phone.example", `{}`, 409, "phone", nil},
		"decision":         {"POST", "/qr/decision", "", "", `{}`, 200, "phone", []int{11, 12}},
		"the PC's account": {"GET", "/userinfo", "", "http://pc.example", `{}`, 200, "pc", []int{14}},
		"phone's account":  {"GET", "/userinfo", "", "http://phone.example", `{}`, 200, "phone", nil},
		"preflight":        {"OPTIONS", "/token", "", "http://pc.example", ``, 200, "pc", nil},
		"web app":          {"POST", "/token", "grant_type=authorization_code&client_id=webapp", "", `{}`, 200, "app", nil},
		"web app's person": {"GET", "/userinfo", "", "", `{}`, 200, "app", []int{14}},
		"hosted picture":   {"GET", "/login/qr.svg", "", "", ``, 200, "other", []int{1, 2, 3, 4}},
		"hosted end":       {"POST", "/login/qr/continue", "", "", ``, 303, "other", []int{13}},
	} {
		recorder, server := recorded(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(row.status)
			_, _ = io.WriteString(w, row.answer)
		})
		header := []string{}
		if row.origin != "" {
			header = []string{"Origin", row.origin}
		}
		ask(t, server, row.method, row.target, "application/x-www-form-urlencoded", row.body, header...)
		entries, _, _ := recorder.Since(0)
		if e := entries[0]; len(entries) != 1 || e.Actor != row.actor || !slices.Equal(e.Steps, row.steps) || e.Status != row.status || e.Open {
			t.Errorf("%s: %+v", name, entries)
		}
	}
}

// A held request and a stream are seen while they are open, message by message.
func TestOpenExchanges(t *testing.T) {
	t.Parallel()
	said, over := make(chan string), make(chan struct{})
	recorder, server := recorded(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			<-over
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for text := range said {
			_, _ = io.WriteString(w, text)
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
		}
	})
	go func() {
		if res, err := server.Client().PostForm(server.URL+"/token", url.Values{"grant_type": {qr.GrantType}}); err != nil || res.Body.Close() != nil {
			t.Errorf("%v, %v", res, err)
		}
	}()
	seen := waitFor(t, recorder, 0, func(e playground.Entry) bool { return e.Path == "/token" })
	if !seen.Open || seen.Status != 0 || !slices.Equal(seen.Steps, []int{5}) {
		t.Errorf("held: %+v", seen)
	}
	close(over)
	waitFor(t, recorder, seen.Revision, func(e playground.Entry) bool { return e.ID == seen.ID && !e.Open && e.Status == http.StatusOK })

	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/qr/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		said <- "event: qr\ndata: {\"type\":\"qr\"}\n\nevent: scan"
		said <- "ned\ndata: {\"type\":\"scanned\",\"check_code\":\"42\"}\n\n"
	}()
	res, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	stream := waitFor(t, recorder, 0, func(e playground.Entry) bool { return e.Path == "/qr/events" && e.Of == 0 && e.Status == http.StatusOK })
	message := waitFor(t, recorder, 0, func(e playground.Entry) bool { return e.Of == stream.ID && e.Event == "scanned" })
	if !slices.Equal(message.Steps, []int{9, 10}) || !strings.Contains(strings.Join(message.Answer, ""), `"check_code": "42"`) {
		t.Errorf("%+v", message)
	}
	if line, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil || line != "event: qr\n" {
		t.Errorf("%q, %v", line, err)
	}
	close(said)
	waitFor(t, recorder, 0, func(e playground.Entry) bool { return e.ID == stream.ID && !e.Open })
}

// The messages of a WebSocket are seen, whatever their length.
func TestSocketMessages(t *testing.T) {
	t.Parallel()
	lengths := []int{1, 200, 70_000}
	recorder, server := recorded(t, func(w http.ResponseWriter, r *http.Request) {
		socket, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		for _, length := range lengths {
			message := fmt.Sprintf(`{"type":"scanned","check_code":"%d","ticket":%q}`, length, secret+strings.Repeat("x", length))
			if err := socket.Write(r.Context(), websocket.MessageText, []byte(message)); err != nil {
				t.Error(err)
			}
		}
		_ = socket.Close(websocket.StatusNormalClosure, "")
	})
	client, _, err := websocket.Dial(t.Context(), server.URL+"/qr/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	client.SetReadLimit(1 << 20)
	for _, length := range lengths {
		if _, got, err := client.Read(t.Context()); err != nil || !strings.Contains(string(got), secret) {
			t.Errorf("the client got %.80q, %v", got, err)
		}
		seen := waitFor(t, recorder, 0, func(e playground.Entry) bool {
			return e.Event == "scanned" && strings.Contains(strings.Join(e.Answer, ""), fmt.Sprintf(`"check_code": "%d"`, length))
		})
		if strings.Contains(strings.Join(seen.Answer, ""), secret) {
			t.Errorf("%+v", seen)
		}
	}
	_ = client.CloseNow()
}

// Only so many exchanges are remembered.
func TestBounded(t *testing.T) {
	t.Parallel()
	recorder, server := recorded(t, func(http.ResponseWriter, *http.Request) {})
	for i := range 450 {
		ask(t, server, http.MethodGet, fmt.Sprintf("/%d", i), "", "")
	}
	entries, _, _ := recorder.Since(0)
	if len(entries) != 400 || entries[399].Path != "/449" || entries[0].Path != "/50" {
		t.Errorf("%d entries, from %s to %s", len(entries), entries[0].Path, entries[len(entries)-1].Path)
	}
}

// waitFor returns the first entry that is as wanted, once there is one.
func waitFor(t *testing.T, recorder *playground.Recorder, since int64, wanted func(playground.Entry) bool) playground.Entry {
	t.Helper()
	for {
		entries, _, changed := recorder.Since(since)
		for _, e := range entries {
			if wanted(e) {
				return e
			}
		}
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatal("it was never seen")
		}
	}
}
