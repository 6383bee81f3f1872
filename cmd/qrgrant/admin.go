package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/storage"
)

// maxAdminBody bounds a request of the admin socket.
const maxAdminBody = 1 << 20

// admin is what the verbs user and client do to a store: over the admin socket while a server
// runs, on the opened file when none does.
type admin struct {
	store storage.Store
	// config returns the configuration that the server was given last; nil when there is no
	// server. What stands in it is changed there, or the next reload would undo the change.
	config func() *configFile
	// endings end what a change is to keep people from.
	endings endings
	logger  *slog.Logger
}

// adminUser is a person as the admin API shows and takes one; a hash is never shown.
type adminUser struct {
	Login        string         `json:"login"`
	Subject      string         `json:"subject,omitempty"`
	PasswordHash string         `json:"password_hash,omitempty"`
	Claims       map[string]any `json:"claims,omitempty"`
	Disabled     bool           `json:"disabled,omitempty"`
}

// adminClient is a client as the admin API shows one.
type adminClient struct {
	ID           string   `json:"id"`
	Name         string   `json:"name,omitempty"`
	Public       bool     `json:"public,omitempty"`
	RedirectURIs []string `json:"redirect_uris,omitempty"`
	GrantTypes   []string `json:"grant_types,omitempty"`
	Disabled     bool     `json:"disabled,omitempty"`
	// Source says who made it: operator, registered (itself) or metadata (a document at its id).
	Source    string `json:"source,omitempty"`
	LogoURI   string `json:"logo_uri,omitempty"`
	ClientURI string `json:"client_uri,omitempty"`
	PolicyURI string `json:"policy_uri,omitempty"`
	TermsURI  string `json:"tos_uri,omitempty"`
}

// adminError is a refusal with a sentence for the person at the terminal.
type adminError struct {
	status   int
	sentence string
}

func (e *adminError) Error() string { return e.sentence }

func (a *admin) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, act := range map[string]func(*http.Request) (any, error){
		"GET /users":                    a.listUsers,
		"POST /users":                   a.addUser,
		"POST /users/{login}/password":  a.setPassword,
		"POST /users/{login}/disabled":  a.disableUser,
		"GET /clients":                  a.listClients,
		"POST /clients":                 a.addClient,
		"POST /clients/{name}/disabled": a.disableClient,
		"DELETE /clients/{name}":        a.removeClient,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxAdminBody)
			answer, err := act(r)
			writeAdmin(w, answer, err)
		})
	}
	return mux
}

func writeAdmin(w http.ResponseWriter, answer any, err error) {
	status := http.StatusOK
	if err != nil {
		var refused *adminError
		switch {
		case errors.As(err, &refused):
			status = refused.status
		case errors.Is(err, storage.ErrNotFound):
			status = http.StatusNotFound
			err = errors.New("there is none of that name")
		default:
			status = http.StatusInternalServerError
		}
		answer = map[string]string{"error": err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

func readAdmin(r *http.Request, into any) error {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return &adminError{http.StatusBadRequest, "the request is malformed"}
	}
	return nil
}

func (a *admin) listUsers(r *http.Request) (any, error) {
	users, err := a.store.Users(r.Context())
	list := make([]adminUser, 0, len(users))
	for _, u := range users {
		list = append(list, adminUser{Login: u.Login, Subject: u.Subject, Disabled: u.Disabled})
	}
	slices.SortFunc(list, func(x, y adminUser) int { return strings.Compare(x.Login, y.Login) })
	return list, err
}

func (a *admin) addUser(r *http.Request) (any, error) {
	var given adminUser
	if err := readAdmin(r, &given); err != nil {
		return nil, err
	}
	asConfig := userConfig{Login: given.Login, Subject: given.Subject, PasswordHash: given.PasswordHash, Claims: given.Claims}
	if err := refuse(asConfig.faults(noVariables)); err != nil {
		return nil, err
	}
	if err := a.unmanagedUser(given.Login); err != nil {
		return nil, err
	}
	taken := &adminError{http.StatusConflict, fmt.Sprintf("there is a user %q already", given.Login)}
	_, err := a.store.UserByLogin(r.Context(), given.Login)
	if err == nil {
		return nil, taken
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	if given.Subject == "" {
		given.Subject = rand.Text()
	} else if _, err := a.store.User(r.Context(), given.Subject); !errors.Is(err, storage.ErrNotFound) {
		// Without knowing that it is free, the put could take somebody's place.
		if err == nil {
			err = &adminError{http.StatusConflict, fmt.Sprintf("the subject %q is another user's already", given.Subject)}
		}
		return nil, err
	}
	err = a.store.PutUser(r.Context(), &storage.User{Subject: given.Subject, Login: given.Login, PasswordHash: given.PasswordHash, Claims: given.Claims})
	if errors.Is(err, storage.ErrConflict) {
		return nil, taken
	}
	return adminUser{Login: given.Login, Subject: given.Subject}, err
}

func (a *admin) setPassword(r *http.Request) (any, error) {
	var given adminUser
	if err := readAdmin(r, &given); err != nil {
		return nil, err
	}
	if provider.CheckPasswordHash(given.PasswordHash) != nil {
		return nil, &adminError{http.StatusBadRequest, "this is not an argon2id hash"}
	}
	return a.changeUser(r, func(u *storage.User) { u.PasswordHash = given.PasswordHash })
}

func (a *admin) disableUser(r *http.Request) (any, error) {
	var given adminUser
	if err := readAdmin(r, &given); err != nil {
		return nil, err
	}
	return a.changeUser(r, func(u *storage.User) { u.Disabled = given.Disabled })
}

func (a *admin) changeUser(r *http.Request, change func(*storage.User)) (any, error) {
	login := r.PathValue("login")
	if err := a.unmanagedUser(login); err != nil {
		return nil, err
	}
	user, err := a.store.UserByLogin(r.Context(), login)
	if err != nil {
		return nil, err
	}
	change(user)
	if err := a.store.PutUser(r.Context(), user); err != nil {
		return nil, err
	}
	// At every change: whoever it is to keep out may be signed in, and an account that is unlocked
	// must not bring back what was signed in before.
	return adminUser{Login: user.Login, Subject: user.Subject, Disabled: user.Disabled}, a.endings.EndSignIns(r.Context(), user.Subject)
}

// unmanagedUser refuses what the configuration file decides.
func (a *admin) unmanagedUser(login string) error {
	if c := a.config(); c != nil && slices.ContainsFunc(c.Users, func(u userConfig) bool { return strings.EqualFold(u.Login, login) }) {
		return &adminError{http.StatusConflict, fmt.Sprintf("the user %q stands in the configuration file; change it there, and the server takes it over", login)}
	}
	return nil
}

func (a *admin) listClients(r *http.Request) (any, error) {
	clients, err := a.store.Clients(r.Context())
	list := make([]adminClient, 0, len(clients))
	for _, c := range clients {
		list = append(list, adminClient{
			ID: c.ID, Name: c.Name, Public: c.Public(), RedirectURIs: c.RedirectURIs, GrantTypes: c.GrantTypes, Disabled: c.Disabled, Source: sourceName(c.Source),
			LogoURI: c.LogoURI, ClientURI: c.ClientURI, PolicyURI: c.PolicyURI, TermsURI: c.TermsURI,
		})
	}
	return list, err
}

func (a *admin) addClient(r *http.Request) (any, error) {
	var given clientConfig
	if err := readAdmin(r, &given); err != nil {
		return nil, err
	}
	if err := refuse(given.faults(noVariables, a.config())); err != nil {
		return nil, err
	}
	if err := a.unmanagedClient(given.ID); err != nil {
		return nil, err
	}
	if _, err := a.store.Client(r.Context(), given.ID); !errors.Is(err, storage.ErrNotFound) {
		if err == nil {
			err = &adminError{http.StatusConflict, fmt.Sprintf("there is a client %q already", given.ID)}
		}
		return nil, err
	}
	if err := a.store.PutClient(r.Context(), given.record(noVariables)); err != nil {
		return nil, err
	}
	a.logger.InfoContext(r.Context(), "a client was added", "client_id", given.ID)
	return adminClient{ID: given.ID}, nil
}

func (a *admin) disableClient(r *http.Request) (any, error) {
	var given adminClient
	if err := readAdmin(r, &given); err != nil {
		return nil, err
	}
	id := r.PathValue("name")
	if err := a.unmanagedClient(id); err != nil {
		return nil, err
	}
	if err := a.store.UpdateClient(r.Context(), id, switchedTo(given.Disabled)); err != nil {
		return nil, err
	}
	if given.Disabled {
		a.logger.InfoContext(r.Context(), "a client was switched off", "client_id", id)
	} else {
		a.logger.InfoContext(r.Context(), "a client was switched on", "client_id", id)
	}
	return adminClient{ID: id, Disabled: given.Disabled}, a.endings.RevokeClientTokens(r.Context(), id)
}

func switchedTo(disabled bool) func(*storage.Client) error {
	return func(c *storage.Client) error {
		c.Disabled = disabled
		return nil
	}
}

// removeClient switches the client off first: what is still under way then gets nothing, and
// whatever fails can be asked for again.
func (a *admin) removeClient(r *http.Request) (any, error) {
	id := r.PathValue("name")
	if err := a.unmanagedClient(id); err != nil {
		return nil, err
	}
	// Whoever asked may go; half of it done would leave tokens that nobody sees.
	ctx := context.WithoutCancel(r.Context())
	if err := a.store.UpdateClient(ctx, id, switchedTo(true)); err != nil {
		return nil, err
	}
	if err := provider.RemoveClient(ctx, a.store, id, time.Now()); err != nil {
		return nil, err
	}
	a.logger.InfoContext(ctx, "a client was removed", "client_id", id)
	return adminClient{ID: id}, nil
}

// sourceName is what people are told of who made a client.
func sourceName(s storage.ClientSource) string {
	switch s {
	case storage.ClientRegistered:
		return "registered"
	case storage.ClientMetadata:
		return "metadata"
	case storage.ClientConfigured:
	}
	return "operator"
}

// refuse answers with all that is wrong with what was given.
func refuse(found []fault) error {
	var what []string
	for _, at := range found {
		what = append(what, at.what)
	}
	if len(what) == 0 {
		return nil
	}
	return &adminError{http.StatusBadRequest, strings.Join(what, "; ")}
}

// noVariables is the environment of what does not come from a file: it may name none.
func noVariables(string) string { return "" }

func (a *admin) unmanagedClient(id string) error {
	if c := a.config(); c != nil && slices.ContainsFunc(c.Clients, func(known clientConfig) bool { return known.ID == id }) {
		return &adminError{http.StatusConflict, fmt.Sprintf("the client %q stands in the configuration file; change it there, and the server takes it over", id)}
	}
	return nil
}

// adminServer answers on the admin socket. Its mode is all its protection: whoever may open
// it may also read the database.
type adminServer struct {
	path string
	http *http.Server
	done chan struct{}
}

// listenAdmin opens the socket at path with mode 0600. The caller holds the database, so
// what lies there is a leftover of a server that died, unless it is no socket at all.
func listenAdmin(ctx context.Context, path string, handler http.Handler) (*adminServer, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("%s is not a socket and was left untouched; choose another with --admin-socket", path)
	}
	// A socket is born with the mode of the umask, so it is born where nobody else can go.
	private, err := os.MkdirTemp(filepath.Dir(path), ".a-")
	if err != nil {
		return nil, fmt.Errorf("make the admin socket: %w", err)
	}
	defer func() { _ = os.RemoveAll(private) }()
	born := filepath.Join(private, "s")
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", born)
	if err != nil {
		return nil, fmt.Errorf("make the admin socket: %w", err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(born, 0o600), os.Rename(born, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("make the admin socket: %w", err), listener.Close())
	}
	s := &adminServer{path: path, done: make(chan struct{}), http: &http.Server{
		Handler: handler, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: readTimeout,
	}}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(listener) // it ends with close
	}()
	return s, nil
}

// close ends the socket, letting a request under way finish.
func (s *adminServer) close(ctx context.Context) error {
	if s == nil {
		return nil
	}
	limit, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	err := errors.Join(s.http.Shutdown(limit), os.Remove(s.path))
	<-s.done
	return err
}
