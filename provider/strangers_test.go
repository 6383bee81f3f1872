package provider_test

import (
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/qrgrant/qrgrant/provider/internal/hostile"
	"github.com/qrgrant/qrgrant/provider/providertest"
	"github.com/qrgrant/qrgrant/storage"
)

// Anybody may register for keys at an address that answers slowly, perhaps one that many share.
func TestStrangersKeepNoClientOfTheOperatorOut(t *testing.T) {
	t.Parallel()
	const many = 8 // as many as are read from one peer at once
	arrived, over := make(chan struct{}, 2*many), make(chan struct{})
	slow := hostile.Start(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-over
	}))
	key := providertest.NewClientKey(t, jose.ES256, "k1")
	published := providertest.NewDocuments(t)
	known := keyClient(t, "known", key)
	known.JWKS, known.JWKSURI = nil, published.PutJSON("/jwks", providertest.JWKS(key))
	known.GrantTypes = []string{"client_credentials"}
	clients := []*storage.Client{known}
	for n := range many {
		stranger := keyClient(t, fmt.Sprint("stranger-", n), key)
		stranger.JWKS, stranger.JWKSURI, stranger.Source = nil, fmt.Sprint(slow, "/", n), storage.ClientRegistered
		clients = append(clients, stranger)
	}
	s := providertest.NewServer(t, providertest.Options{Clients: clients, Change: published.Reachable})
	var asking sync.WaitGroup
	for n := range many {
		asking.Go(func() {
			s.PostSigned(t.Context(), key, fmt.Sprint("stranger-", n), "/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}})
		})
	}
	for range many {
		<-arrived
	}
	reply := s.PostSigned(t.Context(), key, "known", "/token", url.Values{"grant_type": {"client_credentials"}})
	close(over)
	asking.Wait()
	if reply.Status != http.StatusOK {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
}
