package examples_test

import (
	"fmt"
	"net/http"
	"testing"
	"testing/fstest"
	"time"

	"github.com/qrgrant/qrgrant/examples/internal/chromium"
	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/providertest"
)

// watchPicture notes every moment at which the page has no picture of a code to show.
const watchPicture = `window.blank = 0, window.pictures = new Set();
(function look() {
  const image = document.getElementById('qr-image');
  if (!image || !image.complete || image.naturalWidth === 0 || image.getBoundingClientRect().width < 240) window.blank++;
  else window.pictures.add(image.src);
  requestAnimationFrame(look);
})(), 0`

// hide makes the page believe that its tab is in the background, where a minute passes at once.
const hide = `window.laterOn = window.laterOn || setTimeout;
window.setTimeout = (then, millis, ...more) => laterOn(then, millis >= 60000 ? 1 : millis, ...more);
Object.defineProperty(document, 'hidden', { value: true, configurable: true });
document.dispatchEvent(new Event('visibilitychange'))`

const unhide = `delete document.hidden, document.dispatchEvent(new Event('visibilitychange'))`

// watchRequests keeps the signals of what the page asks for from now on, and makes it ask.
const watchRequests = `window.asked = [];
window.sent = window.sent || fetch;
window.fetch = (url, options) => (asked.push(options.signal), sent(url, options));
dispatchEvent(new Event('online'))`

// TestBrowserRotation watches the code change without ever being away, and an old one refused.
func TestBrowserRotation(t *testing.T) {
	t.Parallel()
	b := openShop(t, providertest.Options{HTTP: true}, nil)
	phone, p := b.telephone(), b.visit(chromium.PageOptions{})
	p.WaitVisible("#qr-clock")
	old := p.DecodeQR("#qr-image")
	chromium.Eval[int](p, watchPicture)
	for i := range 3 {
		before := chromium.Eval[string](p, "document.getElementById('qr-image').src")
		b.Clock.Advance(10 * time.Second)
		p.WaitFor(fmt.Sprintf("document.getElementById('qr-image').src !== %q", before))
		if left := p.Text("#qr-clock"); left != fmt.Sprintf("2:%02d", 49-10*i) && left != fmt.Sprintf("2:%02d", 50-10*i) {
			t.Errorf("time left %q", left)
		}
	}
	if now := p.DecodeQR("#qr-image"); now == old {
		t.Error("the code on the screen has not changed")
	}
	if blank := chromium.Eval[int](p, "window.blank"); blank > 0 {
		t.Errorf("without a code %d times", blank)
	}
	if pictures := chromium.Eval[int](p, "window.pictures.size"); pictures < 4 {
		t.Errorf("only %d pictures", pictures)
	}
	reply := phone.try("/qr/scan", map[string]any{"payload": old, "entry": "scanner"})
	if reply.Status != http.StatusConflict || reply.Text("error") != "stale_frame" {
		t.Errorf("the old code: %d %s", reply.Status, reply.Body)
	}
	phone.approve(p)
	p.Click("#qr-continue")
	b.signedIn(p)
}

// TestBrowserRenewal lets codes expire: three are renewed by themselves, and then by the button;
// none in a tab that nobody sees. A half-typed password stays.
func TestBrowserRenewal(t *testing.T) {
	t.Parallel()
	b := openShop(t, providertest.Options{HTTP: true}, nil)
	p := b.visit(chromium.PageOptions{})
	p.Expect("/login/qr.svg") // a picture that is asked for while the code is scanned is not there any more
	p.Type("#password", "half-ty")
	chromium.Eval[int](p, "window.mark = 7")
	code := p.Text("#user-code")
	renewed := func() {
		t.Helper()
		p.WaitFor(fmt.Sprintf("seen('#user-code') && seen('#user-code').innerText !== %q", code))
		code = p.Text("#user-code")
	}
	for range 3 {
		b.Clock.Advance(5 * time.Minute)
		renewed()
	}
	b.Clock.Advance(5 * time.Minute)
	p.WaitText("has expired")
	look(t, p, "expired")
	p.Click("#qr-new")
	renewed()
	if chromium.Eval[string](p, "document.activeElement.id") != "qr-title" {
		t.Error("the focus was left on a button that is gone")
	}

	chromium.Eval[bool](p, hide)
	b.Clock.Advance(5 * time.Minute)
	phone := b.telephone() // takes as long as a page that renews would
	chromium.Eval[int](p, "new Promise(done => laterOn(done, 300, 0))")
	if still := chromium.Eval[string](p, "document.getElementById('user-code').textContent"); still != code {
		t.Error("renewed in a hidden tab")
	}
	chromium.Eval[bool](p, unhide)
	renewed()
	if typed := chromium.Eval[string](p, "document.getElementById('password').value"); typed != "half-ty" || chromium.Eval[int](p, "window.mark") != 7 {
		t.Errorf("of what was typed there is %q", typed)
	}
	scan := phone.scan(p)
	phone.decide(scan, "approve", p.Text("#check-code"))
	p.Click("#qr-continue")
	b.signedIn(p)
}

// TestBrowserRenewalFails leaves the button, which sends its form.
func TestBrowserRenewalFails(t *testing.T) {
	t.Parallel()
	f := newFront(t)
	b, _ := openShopBehind(t, f, providertest.Options{})
	p := b.visit(chromium.PageOptions{})
	p.WaitVisible("#qr-clock")
	code := p.Text("#user-code")
	p.Expect("ERR_")
	chromium.Eval[bool](p, "window.sent = fetch, window.fetch = (url, o) => o.method === 'POST' ? sent('http://127.0.0.1:1/', { mode: 'cors' }).catch(() => { throw new TypeError('lost') }) : sent(url, o), true")
	p.Expect("violated by")
	p.Expect("Content Security Policy")
	b.Clock.Advance(5 * time.Minute)
	p.WaitText("has expired")
	p.Click("#qr-new")
	p.WaitFor(fmt.Sprintf("seen('#user-code') && seen('#user-code').innerText !== %q", code))
}

// TestBrowserStates looks at the states that the other tests pass by, each in both languages: no
// answer is for the eyes only, and each can be read.
func TestBrowserStates(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]chromium.PageOptions{
		"television": {Width: 1920, Height: 1080},
		"phone":      {Width: 390, Height: 844, Scale: 2, Mobile: true, Language: "zh-CN"},
		"dark":       {Dark: true, Language: "zh"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openShop(t, providertest.Options{HTTP: true}, nil)
			phone, p := b.telephone(), b.visit(o)
			p.WaitVisible("#qr-clock")
			look(t, p, "1-pending")
			side := chromium.Eval[float64](p, "document.getElementById('qr-image').getBoundingClientRect().width") * 37 / 45
			if least := map[string]float64{"television": 430}[name]; side < max(least, 240) {
				t.Errorf("the code is %.0f pixels wide", side)
			}
			if high := chromium.Eval[int](p, "document.documentElement.scrollHeight"); name == "television" && high > 1080 {
				t.Errorf("the page is %d pixels high, and a television scrolls badly", high)
			}
			if name == "phone" && !chromium.Eval[bool](p, "document.getElementById('password').getBoundingClientRect().bottom < document.getElementById('qr').getBoundingClientRect().top") {
				t.Error("the form is not first")
			}
			payload := p.DecodeQR("#qr-image")
			scan := phone.post("/qr/scan", map[string]any{"payload": payload, "entry": "scanner"})
			p.WaitVisible("#check-code")
			look(t, p, "2-scanned")
			if second := b.telephone().try("/qr/scan", map[string]any{"payload": payload, "entry": "scanner"}); second.Text("error") != "already_claimed" {
				t.Errorf("a second phone: %d %s", second.Status, second.Body)
			}
			code := p.Text("#check-code")
			phone.decide(scan, "approve", code)
			p.WaitVisible("#qr-continue")
			look(t, p, "3-approved")
			if regions := chromium.Eval[int](p, "document.querySelectorAll('#qr [role=status], #qr [aria-live], #qr [role=alert]').length"); regions != 1 {
				t.Errorf("%d live regions", regions)
			}
			phone.decide(scan, "deny", "")
			p.WaitFor("document.getElementById('qr').dataset.status === 'denied'")
			look(t, p, "4-denied")
			if wide := chromium.Eval[int](p, "document.documentElement.scrollWidth - document.documentElement.clientWidth"); wide > 0 {
				t.Errorf("the page is %d pixels too wide", wide)
			}
		})
	}
}

// TestBrowserReload keeps the flow over a reload, in every state.
func TestBrowserReload(t *testing.T) {
	t.Parallel()
	b := openShop(t, providertest.Options{HTTP: true}, nil)
	phone, p := b.telephone(), b.visit(chromium.PageOptions{})
	code := p.Text("#user-code")
	p.Reload()
	if again := p.Text("#user-code"); again != code {
		t.Errorf("another code: %s, %s", code, again)
	}
	scan := phone.scan(p)
	number := p.Text("#check-code")
	p.Reload()
	if again := p.Text("#check-code"); again != number {
		t.Errorf("another number: %s, %s", number, again)
	}
	phone.decide(scan, "approve", number)
	p.WaitVisible("#qr-continue")
	p.Reload()
	p.Click("#qr-continue")
	b.signedIn(p)
}

// TestBrowserLeaving lets go of the connection when the page is left or hidden, and takes it up
// again with what has happened since.
func TestBrowserLeaving(t *testing.T) {
	t.Parallel()
	b := openShop(t, providertest.Options{HTTP: true}, nil)
	phone, p := b.telephone(), b.visit(chromium.PageOptions{})
	p.WaitVisible("#qr-clock")
	// In this order, for the last one ends the sign-in.
	for _, way := range []struct {
		out, back string
		last      bool
	}{
		{out: `dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))`, back: `dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))`},
		{out: hide, back: unhide, last: true},
	} {
		chromium.Eval[bool](p, watchRequests)
		p.WaitFor("asked.length === 1 && !asked[0].aborted")
		chromium.Eval[bool](p, way.out)
		p.WaitFor("asked[0].aborted")
		if !way.last {
			chromium.Eval[bool](p, way.back)
			p.WaitFor("asked.length === 2 && !asked[1].aborted")
			continue
		}
		scan := phone.scan(p)
		chromium.Eval[bool](p, way.back)
		p.WaitVisible("#check-code")
		phone.decide(scan, "deny", "")
		p.WaitText("denied or stopped")
	}
}

// TestBrowserTwoTabs shows one flow twice: the later page has it, the earlier says so, stays so,
// and can have it back.
func TestBrowserTwoTabs(t *testing.T) {
	t.Parallel()
	b := openShop(t, providertest.Options{HTTP: true}, nil)
	phone, p := b.telephone(), b.visit(chromium.PageOptions{})
	p.WaitVisible("#qr-clock")
	chromium.Eval[bool](p, watchRequests)
	p.WaitFor("asked.length === 1")
	chromium.Eval[bool](p, "(a => (a.href = location.href, a.target = 'second', a.rel = 'opener', a.id = 'open', a.textContent = 'Open', document.querySelector('main').prepend(a), true))(document.createElement('a'))")
	p.Click("#open")
	p.WaitText("Another tab or window shows this QR code now.")
	chromium.Eval[bool](p, "document.getElementById('open').remove(), true")
	look(t, p, "replaced")
	// Were it to come back by itself, the two would replace each other for ever.
	b.Clock.Advance(10 * time.Second)
	chromium.Eval[bool](p, "dispatchEvent(new Event('online')), document.dispatchEvent(new Event('visibilitychange')), dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
	chromium.Eval[int](p, "new Promise(done => setTimeout(done, 300, 0))")
	if asked := chromium.Eval[int](p, "asked.length"); asked != 1 {
		t.Errorf("the replaced page asked %d times", asked)
	}
	p.Click("#qr-here")
	phone.scan(p)
	p.WaitVisible("#check-code")
}

// TestBrowserRecovery cuts the page off while it waits, in several ways, and it comes back.
func TestBrowserRecovery(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]func(f *front, restart func(bool), p *chromium.Page){
		"cut": func(f *front, _ func(bool), _ *chromium.Page) { f.cut() },
		"lost for a while": func(f *front, _ func(bool), p *chromium.Page) {
			backend := f.backend
			f.lead("")
			p.WaitText("The connection is lost. Trying again by itself.")
			f.lead(backend)
			p.WaitFor("!seen('#qr-lost')")
		},
		"crash":   func(_ *front, restart func(bool), _ *chromium.Page) { restart(false) },
		"restart": func(_ *front, restart func(bool), _ *chromium.Page) { restart(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFront(t)
			b, restart := openShopBehind(t, f, providertest.Options{})
			p := b.visit(chromium.PageOptions{})
			p.Expect("ERR_") // what the browser says of a cut
			p.WaitVisible("#qr-clock")
			chromium.Eval[int](p, "window.mark = 7")
			row(f, restart, p)
			b.HTTP.Client().CloseIdleConnections() // the telephone's were cut too
			phone := b.telephone()
			scan := phone.scan(p)
			number := p.Text("#check-code")
			if name == "lost for a while" {
				f.cut()
			} else {
				row(f, restart, p)
			}
			b.HTTP.Client().CloseIdleConnections()
			phone.decide(scan, "approve", number)
			p.WaitVisible("#qr-continue")
			if chromium.Eval[int](p, "window.mark || 0") != 7 {
				t.Error("the page was loaded again")
			}
			p.Click("#qr-continue")
			b.signedIn(p)
		})
	}
}

// TestBrowserWithheldStream puts a proxy in between that lets go of answers when they are whole:
// the page notices within seconds, and polls.
func TestBrowserWithheldStream(t *testing.T) {
	t.Parallel()
	w := newWithholding(t)
	b := openShopAt(t, w.URL, providertest.Options{HTTP: true}, nil)
	w.lead(t, b.HTTP.URL)
	phone, p := b.telephone(), b.visit(chromium.PageOptions{})
	p.WaitVisible("#qr-clock")
	scan := phone.scan(p)
	phone.decide(scan, "approve", p.Text("#check-code"))
	p.WaitVisible("#qr-continue")
	if streams, polls := w.count("/login/qr/events"), w.count("/login/qr/state"); streams != 1 || polls < 2 || polls > 8 {
		t.Errorf("%d streams, %d polls", streams, polls)
	}
	p.Click("#qr-continue")
	b.signedIn(p)
}

// TestBrowserOldBrowser shows the frame where the module does not run.
func TestBrowserOldBrowser(t *testing.T) {
	t.Parallel()
	b := openShop(t, providertest.Options{HTTP: true, Change: func(c *provider.Config) {
		c.Templates = fstest.MapFS{"static/qrgrant.js": {Data: []byte("export function hosted( {{ // as a browser reads what it does not know\n")}}
	}}, nil)
	phone, p := b.telephone(), b.visit(chromium.PageOptions{})
	p.Expect("SyntaxError")
	p.WaitVisible("iframe")
	if chromium.Eval[bool](p, "document.getElementById('qr') !== null") {
		t.Error("the code is there twice")
	}
	b.frameSoon(p)
	look(t, p, "frame")
	phone.scan(p)
	p.WaitVisible("#check-code")
}

// TestBrowserRevoked ends the phone's sign-in while the page waits for its decision: nobody is left
// to take it, and the page says so.
func TestBrowserRevoked(t *testing.T) {
	t.Parallel()
	for _, approved := range []bool{false, true} {
		b := openShop(t, providertest.Options{HTTP: true}, nil)
		phone, p := b.telephone(), b.visit(chromium.PageOptions{})
		scan := phone.scan(p)
		number := p.Text("#check-code")
		if approved {
			phone.decide(scan, "approve", number)
			p.WaitVisible("#qr-continue")
		}
		if err := b.Provider.EndSignIns(t.Context(), providertest.AliceSubject); err != nil {
			t.Fatal(err)
		}
		p.WaitText("denied or stopped")
	}
}
