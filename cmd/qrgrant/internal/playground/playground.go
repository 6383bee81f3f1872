package playground

import (
	"bytes"
	"context"
	"crypto/subtle"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/templates"
)

//go:embed static
var files embed.FS

const (
	// maxRequest bounds what the page sends.
	maxRequest = 16 << 10
	// aliveEvery is how often a silent stream of exchanges says that it is alive.
	aliveEvery = 15 * time.Second
	// writeWait bounds one write to that stream.
	writeWait = 10 * time.Second
)

// App is the page. All fields are required.
type App struct {
	// Issuer is the server, URL the page's own origin, Phone and Web those of the two examples.
	Issuer, URL, Phone, Web string
	// ClientID is the public client that the PC is, PhoneClientID that of the phone application.
	ClientID, PhoneClientID string
	// Key is asked for by everything but the page and its files.
	Key string
	// Recorder has the exchanges.
	Recorder *Recorder
	// SignIn signs the person in at an address of the authorization endpoint, as a browser
	// would, and returns the redirect to the phone application.
	SignIn func(ctx context.Context, address string) (*url.URL, error)
}

// Address is what the person opens.
func (a *App) Address() string { return a.URL + "/#" + a.Key }

// Handler serves the page.
func (a *App) Handler() (http.Handler, error) {
	page, err := a.page()
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { serve(w, "text/html; charset=utf-8", page) })
	for name, media := range map[string]string{
		"style.css": "text/css; charset=utf-8", "playground.js": "text/javascript; charset=utf-8", "pc.js": "text/javascript; charset=utf-8",
		"phone.js": "text/javascript; charset=utf-8", "log.js": "text/javascript; charset=utf-8", "dom.js": "text/javascript; charset=utf-8",
		"icon.svg": "image/svg+xml",
	} {
		body, err := files.ReadFile("static/" + name)
		if err != nil {
			return nil, fmt.Errorf("playground: %w", err)
		}
		mux.HandleFunc("GET /static/"+name, func(w http.ResponseWriter, _ *http.Request) { serve(w, media, body) })
	}
	// The module that web pages of others import, as it is.
	module, err := templates.Files.ReadFile("static/qrgrant.js")
	if err != nil {
		return nil, fmt.Errorf("playground: %w", err)
	}
	mux.HandleFunc("GET /static/qrgrant.js", func(w http.ResponseWriter, _ *http.Request) { serve(w, "text/javascript; charset=utf-8", module) })
	mux.HandleFunc("GET /exchanges", a.keyed(a.exchanges))
	mux.HandleFunc("POST /sign-in", a.keyed(a.signIn))
	return a.guard(mux), nil
}

func (a *App) page() ([]byte, error) {
	parsed, err := template.ParseFS(files, "static/index.html")
	if err != nil {
		return nil, fmt.Errorf("playground: %w", err)
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, a); err != nil {
		return nil, fmt.Errorf("playground: %w", err)
	}
	return out.Bytes(), nil
}

// guard sets the headers of every answer and refuses requests for another name: a name of
// somebody else that points here must not be this page's origin.
func (a *App) guard(next http.Handler) http.Handler {
	own, policy := strings.TrimPrefix(strings.TrimPrefix(a.URL, "https://"), "http://"), a.policy()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Permissions-Policy", `camera=(self "`+a.Phone+`"), microphone=(), geolocation=(), payment=(), usb=()`)
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		if r.Host != own {
			http.Error(w, "This page is at "+a.URL+" only.", http.StatusMisdirectedRequest)
			return
		}
		if origin := r.Header.Get("Origin"); origin != "" && origin != a.URL {
			http.Error(w, "Only the page itself may ask.", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (a *App) policy() string {
	socket := "ws" + strings.TrimPrefix(a.Issuer, "http")
	return "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' " + a.Issuer + " " + socket +
		"; frame-src " + a.Phone + "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types"
}

// keyed asks for the key.
func (a *App) keyed(next http.HandlerFunc) http.HandlerFunc {
	want := []byte("Bearer " + a.Key)
	return func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			http.Error(w, "Open the address that qrgrant dev has printed, with everything behind the #.", http.StatusUnauthorized)
			return
		}
		next(w, r)
	}
}

// exchanges is GET /exchanges?since=N: the exchanges as server-sent events, those that are
// remembered first.
func (a *App) exchanges(w http.ResponseWriter, r *http.Request) {
	since, err := strconv.ParseInt(r.URL.Query().Get("since"), 10, 64)
	if err != nil || since < 0 {
		http.Error(w, "since must be a number.", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	// A time limit for reading the request would end the stream.
	_ = control.SetReadDeadline(time.Time{}) // where there is none, there is no limit
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for {
		entries, now, changed := a.Recorder.Since(since)
		since = now
		var out bytes.Buffer
		for i := range entries {
			data, err := json.Marshal(entries[i])
			if err != nil {
				return
			}
			fmt.Fprintf(&out, "data: %s\n\n", data)
		}
		if out.Len() == 0 {
			out.WriteString(":\n\n")
		}
		if err := write(w, control, out.Bytes()); err != nil {
			return
		}
		select {
		case <-changed:
		case <-alive.C:
		case <-r.Context().Done():
			return
		}
	}
}

// write gives each write of a stream a deadline of its own: a browser that reads nothing is gone.
func write(w io.Writer, control *http.ResponseController, text []byte) error {
	if err := control.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := control.Flush(); err != nil {
		return err
	}
	return control.SetWriteDeadline(time.Time{})
}

// signIn is POST /sign-in {address}: it answers {address}, where the sign-in came back to. Only
// the phone application's own request is carried out: its answer is of use to nobody else.
func (a *App) signIn(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Origin") != a.URL {
		http.Error(w, "Only the page itself may ask.", http.StatusForbidden)
		return
	}
	var request struct{ Address string }
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil || json.Unmarshal(body, &request) != nil || !a.ofPhone(request.Address) {
		http.Error(w, "That is no sign-in of the phone.", http.StatusBadRequest)
		return
	}
	back, err := a.SignIn(r.Context(), request.Address)
	if err != nil {
		http.Error(w, "The sign-in did not work; open the phone in a window of its own.", http.StatusBadGateway)
		return
	}
	answer, err := json.Marshal(map[string]string{"address": back.String()})
	if err != nil {
		return
	}
	serve(w, "application/json", answer)
}

// ofPhone reports whether an address is a request of the phone application to the server.
func (a *App) ofPhone(address string) bool {
	path, query, found := strings.Cut(address, "?")
	if !found || path != a.Issuer+"/authorize" {
		return false
	}
	values, err := url.ParseQuery(query)
	return err == nil && len(values["client_id"]) == 1 && values.Get("client_id") == a.PhoneClientID &&
		len(values["redirect_uri"]) == 1 && values.Get("redirect_uri") == a.Phone+"/"
}

func serve(w http.ResponseWriter, media string, body []byte) {
	w.Header().Set("Content-Type", media)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // a browser that is gone needs nothing
}
