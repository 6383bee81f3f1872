package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/playground"
	"github.com/qrgrant/qrgrant/examples/mobile/phoneapp"
	"github.com/qrgrant/qrgrant/examples/webapp/relyingparty"
)

const devDetail = `    A server to try things on, and one page to try them with: a PC on the left, a phone on the
    right, and every request between them and the server. There are the person alice with a
    password made for this run, the clients web, tv, cli and phone, an example web application to
    sign in to and an example phone application, all on a temporary database that is removed at the end.

    With --lan all of it is at an address of this machine in the local network, over https with a
    certificate made for this run, for a real phone to try. Everybody in that network can reach it then.`

// devFlags is the command line of `qrgrant dev`.
type devFlags struct {
	addr string
	lan  lanFlag
}

func devVerb() verb {
	return verb{
		name:    "dev",
		summary: "a playground on a temporary database; stays until Ctrl-C",
		detail:  devDetail,
		prepare: func(flags *flag.FlagSet) action {
			var f devFlags
			flags.StringVar(&f.addr, "addr", "127.0.0.1:8080", "`HOST:PORT` to listen on, loopback only; port 0 takes a free one.\nWith --lan only the port counts")
			flags.Var(&f.lan, "lan", "serve the local network, over https; --lan=ADDRESS chooses\nan address of this machine")
			return f.run
		},
	}
}

func (f *devFlags) run(ctx context.Context, e env) (err error) {
	host, err := f.host(ctx)
	if err != nil {
		return err
	}
	p, err := openPlace(ctx, host)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	running, seeded, err := p.openServer(ctx, e)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, seeded.remove()) }()
	if err := p.open(ctx, running, seeded); err != nil {
		return errors.Join(err, running.abandon()) //nolint:contextcheck // The shutdown must not be cut short by what failed.
	}
	p.announce(e, running.issuer, seeded)
	return running.serve(ctx)
}

// host returns the address to listen on, loopback without --lan.
func (f *devFlags) host(ctx context.Context) (*devHost, error) {
	if err := checkAddr(f.addr); err != nil {
		return nil, err
	}
	if !f.lan.wanted {
		if !isLoopback(f.addr) {
			return nil, usagef("dev listens on loopback only, such as 127.0.0.1:8080; for a phone in the local network use --lan, for a network qrgrant serve")
		}
		return &devHost{addr: f.addr, scheme: "http://"}, nil
	}
	_, port, _ := net.SplitHostPort(f.addr) // checkAddr has read it
	return f.lan.host(ctx, port)
}

// devHost is where all servers of one run listen.
type devHost struct {
	addr, scheme string
	// ip, others and certificate are set with --lan only.
	ip          netip.Addr
	others      []netip.Addr
	certificate *devCertificate
}

// place is what dev runs beside the server: the two examples and the page.
type place struct {
	host *devHost
	// the listeners, and what they serve at
	app, phone, page site
	webapp           *relyingparty.App
	playground       *playground.App
	recorder         *playground.Recorder
	servers          []*http.Server
}

// site is a listener and its address as an origin.
type site struct {
	listener net.Listener
	url      string
}

// Clients of dev beside those of demo.
const (
	webappClient     = "webapp"
	mobileClient     = "mobile"
	playgroundClient = "playground"
)

// devAgent is the User-Agent of the requests that dev makes for the phone.
const devAgent = "qrgrant-dev-phone"

// openPlace takes the addresses, neighbours of the server's port where they are free.
func openPlace(ctx context.Context, host *devHost) (_ *place, err error) {
	p := &place{host: host}
	for i, s := range []*site{&p.app, &p.phone, &p.page} {
		if s.listener, err = listenBeside(ctx, host.addr, i+1); err != nil {
			return nil, errors.Join(err, p.close())
		}
		s.url = host.scheme + s.listener.Addr().String()
	}
	p.recorder = &playground.Recorder{
		PC: p.page.url, Phone: p.phone.url, PhoneClients: []string{mobileClient, "phone"}, AppClients: []string{webappClient, "web"}, Agent: devAgent,
	}
	return p, nil
}

// openServer opens the server with the clients of the examples and the page.
func (p *place) openServer(ctx context.Context, e env) (*server, *seededRun, error) {
	p.webapp = &relyingparty.App{ClientID: webappClient, ClientSecret: rand.Text() + rand.Text(), URL: p.app.url}
	seed := seeding{
		addr:     p.host.addr,
		logger:   slog.New(slog.NewTextHandler(e.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		clients:  []clientConfig{seedWebapp(p.webapp.URL, p.webapp.ClientSecret), seedMobile(p.phone.url), seedPlayground(p.page.url)},
		networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
	}
	if c := p.host.certificate; c != nil {
		seed.certificate, seed.roots = &c.certificate, c.roots
		seed.networks = append(seed.networks, netip.PrefixFrom(p.host.ip, p.host.ip.BitLen()))
	}
	return openSeeded(ctx, seed)
}

// open serves the examples and the page of a server that is about to run.
func (p *place) open(ctx context.Context, running *server, seeded *seededRun) error {
	running.http.Handler = p.recorder.Wrap(running.http.Handler)
	p.webapp.Issuer = running.issuer
	phone, err := (&phoneapp.App{Issuer: running.issuer, ClientID: mobileClient, URL: p.phone.url, FrameAncestor: p.page.url}).Handler()
	if err != nil {
		return err
	}
	p.playground = &playground.App{
		Issuer: running.issuer, URL: p.page.url, Phone: p.phone.url, Web: p.app.url, ClientID: playgroundClient, PhoneClientID: mobileClient,
		Key: rand.Text(), Recorder: p.recorder, SignIn: p.signIn(running.issuer, seeded.password),
	}
	page, err := p.playground.Handler()
	if err != nil {
		return err
	}
	p.serve(ctx, p.app, p.webapp.Handler())
	p.serve(ctx, p.phone, phone)
	p.serve(ctx, p.page, page)
	return nil
}

// serve answers at a site until close. What the handler asks the server, it asks over our certificate.
func (p *place) serve(ctx context.Context, s site, handler http.Handler) {
	asking := oidc.ClientContext(ctx, p.client())
	made := &http.Server{
		Handler: handler, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:    slog.NewLogLogger(slog.DiscardHandler, slog.LevelWarn), // a phone that does not like the certificate is no news
		BaseContext: func(net.Listener) context.Context { return asking },
	}
	p.servers = append(p.servers, made)
	if c := p.host.certificate; c != nil {
		made.TLSConfig = c.certificate.config()
		go func() { _ = made.ServeTLS(s.listener, "", "") }() // it ends with Close
		return
	}
	go func() { _ = made.Serve(s.listener) }()
}

// close ends what is served beside the server, and gives the addresses back.
func (p *place) close() error {
	var faults []error
	for _, s := range p.servers {
		faults = append(faults, s.Close())
	}
	for _, s := range []site{p.app, p.phone, p.page} {
		if s.listener == nil {
			continue
		}
		if err := s.listener.Close(); !errors.Is(err, net.ErrClosed) {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// listenBeside listens on the neighbour of addr's port, or on a free port.
func listenBeside(ctx context.Context, addr string, distance int) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if base, err := strconv.Atoi(port); err == nil && base != 0 && base+distance <= 65535 {
		if listener, err := listen(ctx, net.JoinHostPort(host, strconv.Itoa(base+distance))); err == nil {
			return listener, nil
		}
	}
	return listen(ctx, net.JoinHostPort(host, "0"))
}

// seededRun is what exists for the time of one run of dev or demo.
type seededRun struct {
	dir          string
	password     string
	passwordFile string
	webSecret    string
}

func (r *seededRun) remove() error { return os.RemoveAll(r.dir) }

// seeding is what dev and demo decide about their server.
type seeding struct {
	addr   string
	logger *slog.Logger
	// clients are there beside the four.
	clients []clientConfig
	// networks are serverSettings.backchannelNetworks.
	networks    []netip.Prefix
	certificate *certificate
	// roots know that certificate.
	roots *x509.CertPool
}

// openSeeded opens a server on a database of its own with alice and the four clients in it.
func openSeeded(ctx context.Context, seed seeding) (*server, *seededRun, error) {
	dir, err := os.MkdirTemp("", "qrgrant-")
	if err != nil {
		return nil, nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	run := &seededRun{
		dir: dir, password: rand.Text(), webSecret: rand.Text() + rand.Text(),
		passwordFile: filepath.Join(dir, "alice.password"),
	}
	const variable = "password of alice"
	config := seedClients(run.webSecret)
	config.Clients = append(config.Clients, seed.clients...)
	config.Users = []userConfig{seedUser(variable)}
	running, err := openServer(ctx, serverSettings{
		addr: seed.addr, db: filepath.Join(dir, "qrgrant.db"), config: config, logger: seed.logger,
		backchannelNetworks: seed.networks, backchannelRoots: seed.roots, certificate: seed.certificate,
		getenv: func(name string) string {
			if name == variable {
				return run.password
			}
			return ""
		},
	})
	if err == nil {
		if err = os.WriteFile(run.passwordFile, []byte(run.password+"\n"), 0o600); err != nil {
			err = errors.Join(fmt.Errorf("write the password file: %w", err), running.abandon()) //nolint:contextcheck // The shutdown must not be cut short by what failed.
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, run.remove())
	}
	return running, run, nil
}

// announce tells a newcomer what is there and what to type next.
func (p *place) announce(e env, issuer string, r *seededRun) {
	fmt.Fprintf(e.Stdout, `Open %[1]s
the PC, the phone and every request between them on one page.

qrgrant dev serves %[2]s until Ctrl-C; everything is thrown away then.

  web app    %[3]s, an example that signs people in here
  phone app  %[4]s, an example that scans and approves
  person     alice, password %[5]s
`, p.playground.Address(), issuer, p.app.url, p.phone.url, r.password)
	if p.host.certificate != nil {
		p.announceLAN(e)
		return
	}
	fmt.Fprintf(e.Stdout, `  clients    web (secret %[3]s), tv (RFC 8628), cli (QR grant), phone (approves)

In terminals, be the PC, and be the phone with the code that the PC shows:

  %[4]s login --issuer %[1]s --client-id cli
  %[4]s phone --issuer %[1]s --user alice --password-file %[2]s --payload XXXX-XXXX

`, issuer, r.passwordFile, r.webSecret, e.Command)
}
