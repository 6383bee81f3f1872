package provider

import "net/http"

// q is GET /Q, where a QR code leads that was scanned outside the app. The page is inert: the
// fragment with the frame never leaves the browser, and without the app the person types the
// user code on /device.
func (p *Provider) q(w http.ResponseWriter, r *http.Request) {
	p.render(w, r, http.StatusOK, "q", struct{ Action string }{p.pathOf(routeDevice)})
}
