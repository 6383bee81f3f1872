// Package phoneapp is an authorization device for a phone's browser: it signs a person in, scans
// the QR code of another screen, shows who asks for what, and sends the verdict.
//
// All of that happens in the browser (static/): the provider is asked by script, across origins,
// and the application's own server never sees a token, an account or an answer of the provider. It serves
// the files, and reads QR codes for browsers that cannot (decode.go).
//
// # The way of one approval
//
//  1. oauth.js signs in by code and PKCE and keeps the tokens; api.js calls the provider. dpop.js
//     binds the tokens to a key and proves it with every request.
//  2. scanner.js looks through the camera, app.js at what it read: only codes of the issuer.
//  3. card.js shows what the provider says about the asker, and takes the number.
//  4. devices.js, a page of its own, lists what was approved and ends it.
//
// # Design
//
// The access token lives in memory. The refresh token lives in IndexedDB, because an installed
// application must not forget its person when it is closed. Beside it lives a key that cannot be
// exported, and the provider takes neither token without a proof of that key (RFC 9449): a copy
// of the tokens is worth nothing. The risk that is left: script that somebody smuggles into this
// origin cannot take the key away, but use it while the page is open. Therefore the pages run no
// script but their own files, build no markup from text (Content-Security-Policy with Trusted
// Types), and the provider rotates the token and ends the family
// when a used one comes back. Nothing else should be served at the same origin. A native
// application would use the phone's key store.
//
// The service worker keeps the files of one version so that the application starts offline. Pages
// come from the network first, and each names the version of its files, so that no page runs with
// the files of another one.
package phoneapp

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"
)

//go:embed static
var files embed.FS

// App is the application. Issuer, ClientID and URL are required.
type App struct {
	// Issuer is the provider, spelt as it spells itself.
	Issuer string
	// ClientID is a public client that may approve, with URL + "/" as redirect URI.
	ClientID string
	// URL is the application's own origin, without a path; https, or http on loopback.
	URL string
	// FrameAncestor is the origin of a page that may put the application into a frame, and then
	// stands for the phone around it (static/outer.js): it hands over the text of a QR code as
	// the camera would, and is asked to lead the person through the sign-in, for the provider's
	// pages never stand in a frame. Whoever is named here can make codes be scanned, not
	// approved by itself, but a frame can be covered: it is for playgrounds such as
	// qrgrant dev's. Empty, as it should be elsewhere, allows no page and listens to none.
	FrameAncestor string
}

// shell is what is served: the same for everybody.
type shell struct {
	page    []byte
	worker  []byte
	version string
	policy  string
}

// Handler serves the application. It fails when Issuer or URL is none.
func (a *App) Handler() (http.Handler, error) {
	s, err := a.shell()
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	// Only the page that scans may use the camera.
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Permissions-Policy", permissions("(self)"))
		serve(w, "text/html; charset=utf-8", "no-cache", s.page)
	})
	mux.HandleFunc("GET /devices", func(w http.ResponseWriter, _ *http.Request) {
		serve(w, "text/html; charset=utf-8", "no-cache", s.page)
	})
	mux.HandleFunc("GET /sw.js", func(w http.ResponseWriter, _ *http.Request) {
		serve(w, "text/javascript; charset=utf-8", "no-cache", s.worker)
	})
	mux.HandleFunc("GET /static/{version}/{file}", s.file)
	mux.Handle("POST /decode", newDecoder(a.URL))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", s.policy)
		h.Set("Permissions-Policy", permissions("()"))
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		mux.ServeHTTP(w, r)
	}), nil
}

func permissions(camera string) string {
	return "camera=" + camera + ", microphone=(), geolocation=(), payment=(), usb=()"
}

// shell makes the page and the worker for this application.
func (a *App) shell() (*shell, error) {
	issuer, err := origin(a.Issuer)
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	if own, err := origin(a.URL); err != nil || own != a.URL {
		return nil, errors.New("url: it must be https://HOST or http://HOST, without a path or a slash at the end")
	}
	if a.ClientID == "" {
		return nil, errors.New("client id: it is empty")
	}
	ancestors := "'none'"
	if a.FrameAncestor != "" {
		if outer, err := origin(a.FrameAncestor); err != nil || outer != a.FrameAncestor {
			return nil, errors.New("frame ancestor: it must be https://HOST or http://HOST, without a path or a slash at the end")
		}
		ancestors = a.FrameAncestor
	}
	s := &shell{}
	// The worker caches the page too: another provider is another version.
	hash := sha256.New()
	fmt.Fprintf(hash, "%q %q %q %q\n", a.Issuer, a.ClientID, a.URL, a.FrameAncestor)
	var names []string
	err = fs.WalkDir(files, "static", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := files.ReadFile(name)
		fmt.Fprintf(hash, "%s %x\n", name, sha256.Sum256(content))
		if base := path.Base(name); base != "index.html" && base != "sw.js" {
			names = append(names, base)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	s.version = hex.EncodeToString(hash.Sum(nil)[:8])
	// What Trusted Types let through is the address of the worker, by the policy of app.js.
	s.policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' " + issuer +
		"; manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors " + ancestors +
		"; require-trusted-types-for 'script'; trusted-types worker"
	page, err := template.ParseFS(files, "static/index.html")
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = page.Execute(&out, map[string]string{"Issuer": a.Issuer, "ClientID": a.ClientID, "URL": a.URL, "Outer": a.FrameAncestor, "Static": "/static/" + s.version})
	if err != nil {
		return nil, err
	}
	s.page = out.Bytes()
	worker, err := files.ReadFile("static/sw.js")
	s.worker = []byte(strings.NewReplacer("VERSION", s.version, "FILES", strings.Join(names, " ")).Replace(string(worker)))
	return s, err
}

func origin(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
		return "", errors.New("it must be an address with https or http")
	}
	return u.Scheme + "://" + u.Host, nil
}

// file serves a file of this version. One of another version would not fit the rest.
func (s *shell) file(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	content, err := files.ReadFile("static/" + name)
	if err != nil || r.PathValue("version") != s.version {
		http.NotFound(w, r)
		return
	}
	media := mime.TypeByExtension(path.Ext(name))
	switch path.Ext(name) { // the types of the machine may miss these
	case ".js":
		media = "text/javascript; charset=utf-8"
	case ".webmanifest":
		media = "application/manifest+json"
	}
	serve(w, media, "public, max-age=31536000, immutable", content)
}

func serve(w http.ResponseWriter, media, cache string, body []byte) {
	w.Header().Set("Content-Type", media)
	w.Header().Set("Cache-Control", cache)
	_, _ = w.Write(body) //nolint:gosec // G705: our own files, or JSON. A browser that is gone needs nothing.
}
