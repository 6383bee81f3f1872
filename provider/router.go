package provider

import (
	"cmp"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gorilla/mux"

	"github.com/qrgrant/qrgrant/provider/internal/reply"
)

// The names of the routes; the metadata documents and the pages get their URLs from them.
const (
	routeToken         = "token"
	routeDeviceStart   = "device_authorization"
	routeScan          = "qr_scan"
	routeDecision      = "qr_decision"
	routeCancel        = "qr_cancel"
	routeEvents        = "qr_events"
	routeSocket        = "qr_ws"
	routeAuthorize     = "authorize"
	routePAR           = "par"
	routeLogin         = "login"
	routeConsent       = "consent"
	routeUserinfo      = "userinfo"
	routeIntrospect    = "introspect"
	routeRevoke        = "revoke"
	routeJWKS          = "jwks"
	routeOpenID        = "openid_configuration"
	routeOAuth         = "oauth_configuration"
	routeOAuthInserted = "oauth_configuration_inserted"
	routeQRConfig      = "qr_configuration"
	routeDevice        = "device"
	routeOpenAPI       = "openapi"
	routeAppleApps     = "apple_apps"
	routeAndroidApps   = "android_apps"
	routeQ             = "q"
	routeQHold         = "q_hold"
	routeQClaim        = "q_claim"
	routeQScript       = "q_script"
	routeSessions      = "sessions"
	routeRevokeAll     = "sessions_revoke_all"
	routeSession       = "session"
	routeAccount       = "account"
	routeLogout        = "logout"
	routeHealth        = "healthz"
	routeReady         = "readyz"
	routeStyle         = "style"
	routeSignInScript  = "signin_script"
	routeFrameScript   = "frame_script"
	routeModule        = "module"
	routeQRState       = "login_qr_state"
	routeQREvents      = "login_qr_events"
	routeQRPNG         = "login_qr_png"
	routeQRSVG         = "login_qr_svg"
	routeQRFrame       = "login_qr"
	routeQRContinue    = "login_qr_continue"
	routeQRNotMe       = "login_qr_not_me"
	routeQRNew         = "login_qr_new"
	routeSubmit        = "submit"
	routeHome          = "home"
	routeHomeBare      = "home_bare"
	routeRegister      = "register"
	routeRegistration  = "registration"
)

type route struct {
	name    string
	methods string
	path    string
	handler http.HandlerFunc
}

// table is every route, those that are asked most often first: gorilla/mux tries them in
// order. Wherever GET or HEAD stands nothing changes.
func (p *Provider) table() []route {
	return []route{
		{routeToken, "POST", "/token", p.token},
		{routeDeviceStart, "POST", "/device_authorization", p.qr.DeviceAuthorization},
		{routeScan, "POST", "/qr/scan", p.qr.Scan},
		{routeDecision, "POST", "/qr/decision", p.qr.Decision},
		{routeCancel, "POST", "/qr/cancel", p.qr.Cancel},
		{routeEvents, "POST", "/qr/events", p.qr.Events},
		{routeSocket, "GET", "/qr/ws", p.qr.WebSocket},
		{routeUserinfo, "GET POST", "/userinfo", p.userinfo},
		{routeIntrospect, "POST", "/introspect", p.introspect},
		{routeRevoke, "POST", "/revoke", p.revoke},
		{routePAR, "POST", "/par", p.discovering(p.par)},
		{routeAuthorize, "GET HEAD POST", "/authorize", p.discovering(p.authorize)},
		{routeLogin, "POST", "/login", p.discovering(p.page(p.login))},
		{routeQRState, "GET", "/login/qr/state", p.qrState},
		{routeQREvents, "GET", "/login/qr/events", p.qrEvents},
		{routeQRSVG, "GET HEAD", "/login/qr.svg", p.qrSVG},
		{routeQRPNG, "GET HEAD", "/login/qr.png", p.qrPNG},
		{routeQRFrame, "GET HEAD", "/login/qr", p.discovering(p.qrFrame)},
		{routeQRContinue, "POST", "/login/qr/continue", p.discovering(p.page(p.qrContinue))},
		{routeQRNotMe, "POST", "/login/qr/not-me", p.discovering(p.page(p.qrNotMe))},
		{routeQRNew, "POST", "/login/qr/new", p.discovering(p.page(p.qrNew))},
		{routeConsent, "POST", "/consent", p.discovering(p.page(p.consent))},
		{routeAccount, "GET HEAD POST", "/account", p.page(p.account)},
		{routeSessions, "GET", pathSessions, p.sessions},
		{routeRevokeAll, "POST", pathSessions + "/revoke-all", p.revokeAll},
		{routeSession, "DELETE", pathSessions + "/{sid}", p.revokeSession},
		{routeDevice, "GET HEAD POST", "/device", p.page(p.device)},
		{routeQ, "GET HEAD", "/Q", p.q},
		{routeQHold, "POST", "/Q/hold", p.page(p.qHold)},
		{routeQClaim, "GET HEAD POST", "/Q/claim", p.page(p.qClaim)},
		{routeLogout, "GET HEAD POST", "/logout", p.logout},
		{routeJWKS, "GET HEAD", "/jwks", p.jwks},
		{routeOpenID, "GET HEAD", "/.well-known/openid-configuration", p.openidConfiguration},
		{routeOAuth, "GET HEAD", "/.well-known/oauth-authorization-server", p.oauthConfiguration},
		{routeQRConfig, "GET HEAD", "/.well-known/qr-configuration", p.qr.Configuration},
		{routeOpenAPI, "GET HEAD", "/openapi.json", p.openAPI},
		{routeHealth, "GET HEAD", "/healthz", p.health},
		{routeReady, "GET HEAD", "/readyz", p.ready},
		{routeSignInScript, "GET HEAD", "/static/signin.js", p.static},
		{routeModule, "GET HEAD", "/static/qrgrant.js", p.static},
		{routeFrameScript, "GET HEAD", "/static/frame.js", p.static},
		{routeQScript, "GET HEAD", "/static/q.js", p.static},
		{routeStyle, "GET HEAD", "/static/style.css", p.static},
		{routeSubmit, "GET HEAD", "/static/submit.js", p.static},
		{routeHome, "GET HEAD", "/", p.home},
	}
}

// routes builds the router. Paths are matched as they are: a cleaned path would be a redirect,
// and a redirected POST loses its body.
func (p *Provider) routes() {
	p.router = mux.NewRouter().SkipClean(true)
	p.allow = make(map[string][]string)
	for _, r := range p.table() {
		p.mount(r.name, p.issuer.Path+r.path, r.methods, r.handler)
	}
	for _, r := range p.registrationRoutes() {
		p.mount(r.name, p.issuer.Path+r.path, r.methods, r.handler)
	}
	for _, r := range p.appRoutes() {
		p.mount(r.name, r.path, r.methods, r.handler)
	}
	if p.issuer.Path != "" {
		// RFC 8414 §3 inserts the well-known part between host and path.
		p.mount(routeOAuthInserted, "/.well-known/oauth-authorization-server"+p.issuer.Path, "GET HEAD", p.oauthConfiguration)
		// A person opens the issuer as it is spelt, without a slash at its end.
		p.mount(routeHomeBare, p.issuer.Path, "GET HEAD", p.home)
	}
	p.router.NotFoundHandler = http.HandlerFunc(p.notFound)
	p.router.MethodNotAllowedHandler = http.HandlerFunc(p.methodNotAllowed)
}

func (p *Provider) mount(name, path, methods string, handler http.HandlerFunc) {
	allowed := strings.Fields(methods)
	p.allow[path] = append(p.allow[path], allowed...)
	p.router.HandleFunc(path, handler).Methods(allowed...).Name(name)
}

// urlOf returns the absolute URL of a route.
func (p *Provider) urlOf(name string) string { return p.origin() + p.pathOf(name) }

// pathOf returns the path of a route, the issuer's prefix included.
func (p *Provider) pathOf(name string) string {
	u, err := p.router.Get(name).URLPath()
	if err != nil { // a static path cannot fail to build
		return p.issuer.Path
	}
	return u.Path
}

// origin is the issuer without its path, spelt as configured.
func (p *Provider) origin() string { return strings.TrimSuffix(p.config.Issuer, p.issuer.Path) }

// home is GET /: what this server is, for a person who opens the issuer's address. A program
// still finds nothing there.
func (p *Provider) home(w http.ResponseWriter, r *http.Request) {
	if !acceptsHTML(r) {
		p.notFound(w, r)
		return
	}
	w.Header().Set("Vary", "Accept")
	p.render(w, r, http.StatusOK, "home", struct{ Issuer, Device, Account string }{p.config.Issuer, p.pathOf(routeDevice), p.pathOf(routeAccount)})
}

// acceptsHTML reports whether a browser shows the answer as a page: it asks for HTML by name,
// which programs and the pictures of a page do not (RFC 9110 §12.5.1).
func acceptsHTML(r *http.Request) bool {
	for item := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		media, parameters, err := mime.ParseMediaType(item)
		if err != nil || media != "text/html" {
			continue
		}
		quality, err := strconv.ParseFloat(cmp.Or(parameters["q"], "1"), 64)
		return err == nil && quality > 0
	}
	return false
}

func (p *Provider) notFound(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Vary", "Accept")
	if acceptsHTML(r) {
		p.render(w, r, http.StatusNotFound, "error", errorView{
			Heading: "There is nothing here", Sentence: "Check the address, or go back to where you came from.",
		})
		return
	}
	reply.Fail(w, reply.Failure{Status: http.StatusNotFound, Code: "not_found"})
}

// methodNotAllowed names the methods that are (RFC 9110 §15.5.6).
func (p *Provider) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == p.pathOf(routeScan) || r.URL.Path == p.pathOf(routeDecision) {
		p.qr.Scan(w, r) // it says so as the phone endpoints say everything: as a problem
		return
	}
	if p.isSessions(r.URL.Path) {
		p.wrongSessionsMethod(w, r)
		return
	}
	allowed := slices.Clone(p.allow[p.registrationPath(r.URL.Path)])
	slices.Sort(allowed)
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	w.Header().Set("Vary", "Accept")
	if acceptsHTML(r) {
		p.render(w, r, http.StatusMethodNotAllowed, "error", errorView{
			Heading: "This did not work", Sentence: "This page cannot be opened by its address. Go back and start again.",
		})
		return
	}
	reply.Fail(w, reply.Failure{Status: http.StatusMethodNotAllowed, Code: "invalid_request", Description: "The method is not allowed here."})
}
