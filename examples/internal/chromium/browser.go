package chromium

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/chromedp"
)

// limit is how long anything may take that a page or the browser is waited for.
const limit = 20 * time.Second

// ErrNotFound says that there is no browser on PATH.
var ErrNotFound = errors.New("chromium: no chromium, chromium-browser or google-chrome on PATH")

// Options are what the pages of one browser process share. The zero value has no camera: a page
// that asks for one is told NotFoundError.
type Options struct {
	// Feed is what the camera sees; access to it is granted without a question.
	Feed *Feed
	// DenyCamera refuses every page the camera: NotAllowedError.
	DenyCamera bool
	// IgnoreCertificateErrors is for the certificates of test servers.
	IgnoreCertificateErrors bool
}

// Browser is a running browser process. Its methods may be used by many goroutines.
type Browser struct {
	ctx       context.Context
	stop      context.CancelFunc
	userAgent string
}

// New starts a browser that ends with the test. It is skipped without one; see the package.
func New(tb testing.TB, o Options) *Browser {
	tb.Helper()
	b, err := Start(o)
	must(tb, err)
	tb.Cleanup(func() {
		if err := b.Close(); err != nil {
			tb.Error(err)
		}
	})
	return b
}

// must ends the test when there is no browser, or when it could not be started.
func must(tb testing.TB, err error) {
	tb.Helper()
	switch {
	case errors.Is(err, ErrNotFound) && os.Getenv("CI") == "":
		tb.Skipf("%v: install Chromium to run the tests with a browser", err)
	case err != nil:
		tb.Fatal(err)
	}
}

// Start starts a browser, which the caller closes. New is for one that a single test uses.
func Start(o Options) (*Browser, error) {
	path, err := find()
	if err != nil {
		return nil, err
	}
	allocator, stop := chromedp.NewExecAllocator(context.Background(), flags(path, o)...)
	// The protocol of a newer browser has events that the driver does not know: no news.
	quiet := func(string, ...any) {}
	ctx, cancel := chromedp.NewContext(allocator, chromedp.WithErrorf(quiet), chromedp.WithLogf(quiet))
	b := &Browser{ctx: ctx, stop: func() { cancel(); stop() }}
	// Not under a deadline: the end of the first context ends the process.
	if err := chromedp.Do(ctx); err != nil {
		b.stop()
		return nil, err
	}
	version, err := chromedp.CallBrowser(ctx, browser.GetVersion, cdp.Empty{})
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	b.userAgent = version.UserAgent
	return b, nil
}

// Close ends the process and removes its profile.
func (b *Browser) Close() error {
	defer b.stop()
	ctx, cancel := context.WithTimeout(b.ctx, limit)
	defer cancel()
	return chromedp.Cancel(ctx)
}

func find() (string, error) {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", ErrNotFound
}

func flags(path string, o Options) []chromedp.ExecAllocatorOption {
	all := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path),
		chromedp.Flag("headless", "new"),
		// Pages look as ever, and no name but this machine's leads anywhere.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"),
		chromedp.Flag("force-color-profile", "srgb"),
		chromedp.Flag("password-store", "basic"),
		chromedp.Flag("lang", "en"),
		chromedp.Flag("use-fake-ui-for-media-stream", true),
	}
	for _, name := range []string{
		"no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update",
		"disable-sync", "disable-default-apps", "disable-dev-shm-usage", "mute-audio", "disable-background-timer-throttling",
		"disable-renderer-backgrounding", "disable-backgrounding-occluded-windows", "hide-scrollbars",
	} {
		all = append(all, chromedp.Flag(name, true))
	}
	if o.IgnoreCertificateErrors {
		all = append(all, chromedp.Flag("ignore-certificate-errors", true))
	}
	if o.DenyCamera {
		all = append(all, chromedp.Flag("use-fake-ui-for-media-stream", "deny"), chromedp.Flag("use-fake-device-for-media-stream", true))
	}
	if o.Feed != nil {
		all = append(all, chromedp.Flag("use-fake-device-for-media-stream", true), chromedp.Flag("use-file-for-fake-video-capture", o.Feed.path))
	}
	return all
}

// Shared is a browser that the tests of a package share. The zero value starts one when it is
// first asked for; TestMain closes it.
type Shared struct {
	// Options are those of the browser.
	Options Options

	once    sync.Once
	browser *Browser
	err     error
}

// Page opens a page in the shared browser.
func (s *Shared) Page(tb testing.TB, o PageOptions) *Page {
	tb.Helper()
	s.once.Do(func() { s.browser, s.err = Start(s.Options) })
	must(tb, s.err)
	return s.browser.Page(tb, o)
}

// Close ends the browser, if it was started. No Page may be asked for afterwards.
func (s *Shared) Close() error {
	s.once.Do(func() { s.err = errors.New("chromium: the shared browser is closed") })
	if s.browser == nil {
		return nil
	}
	return s.browser.Close()
}
