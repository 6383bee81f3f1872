package provider

import (
	"context"
	"net/http"
	"time"
)

// healthTimeout bounds the question to the store, so that a probe gets an answer.
const healthTimeout = 2 * time.Second

// health is GET /healthz: the process serves.
func (p *Provider) health(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// ready is GET /readyz: the store reads and writes.
func (p *Provider) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	if err := p.config.Store.Health(ctx); err != nil {
		p.writeError(w, r, unavailable(err))
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
}
