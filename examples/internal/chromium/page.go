package chromium

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// PageOptions are what a page is like. The zero value runs scripts, is light, 1280 by 800, and
// wants English.
type PageOptions struct {
	// NoScript turns scripts off. Eval works all the same: it is not the page that asks.
	NoScript bool
	// Dark is the colour scheme that the page is told.
	Dark bool
	// Width and Height are the viewport in CSS pixels; zero means 1280 and 800.
	Width, Height int64
	// Scale is how many pixels of the screen a CSS pixel has; zero means one.
	Scale float64
	// Mobile lays out as a phone does, which obeys the viewport that the page declares.
	Mobile bool
	// Language is the Accept-Language header; empty means English.
	Language string
}

// Page is a tab with cookies of its own. It belongs to the goroutine of its test, which its
// methods end when something does not happen within 20 s.
type Page struct {
	tb  testing.TB
	ctx context.Context

	noScript bool
	// outer and origin are set for what Frame returns.
	outer  *Page
	origin string

	mu        sync.Mutex
	faults    []string
	expected  []string
	documents []document
}

// Page opens an empty page that closes with the test.
func (b *Browser) Page(tb testing.TB, o PageOptions) *Page {
	tb.Helper()
	p := &Page{tb: tb, noScript: o.NoScript}
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext(), chromedp.WithListener(p.hear))
	p.ctx = ctx
	// Not under a deadline: the end of the first context closes the page.
	if err := chromedp.Do(ctx); err != nil {
		cancel()
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		p.report()
		cancel()
	})
	p.do("set up", chromedp.Func(func(ctx context.Context, t *chromedp.Target) error { return setUp(ctx, t, b.userAgent, o) }))
	return p
}

func setUp(ctx context.Context, t *chromedp.Target, userAgent string, o PageOptions) error {
	scheme := "light"
	if o.Dark {
		scheme = "dark"
	}
	_, a := cdp.Call(ctx, t, audits.Enable, cdp.Empty{})
	_, m := cdp.Call(ctx, t, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: cmp.Or(o.Width, 1280), Height: cmp.Or(o.Height, 800), DeviceScaleFactor: cmp.Or(o.Scale, 1), Mobile: o.Mobile,
	})
	_, s := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	_, l := cdp.Call(ctx, t, emulation.SetUserAgentOverride, emulation.SetUserAgentOverrideParams{
		UserAgent: userAgent, AcceptLanguage: cmp.Or(o.Language, "en"),
	})
	_, n := cdp.Call(ctx, t, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: o.NoScript})
	return errors.Join(a, m, s, l, n)
}

// hear keeps what went wrong in the page. With scripts off the log and the issues still tell.
func (p *Page) hear(event any) {
	p.hearDocument(event)
	fault := ""
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeAssert {
			fault = "console: " + words(e.Args)
		}
	case *runtime.EventExceptionThrown:
		fault = "exception: " + e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			fault += " " + e.ExceptionDetails.Exception.Description
		}
	case *log.EventEntryAdded:
		// The icon is asked for by the browser, whatever the page is.
		if e.Entry.Level == log.EntryLevelError && !strings.HasSuffix(e.Entry.URL, "/favicon.ico") {
			fault = fmt.Sprintf("log: %s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	case *audits.EventIssueAdded:
		if csp := e.Issue.Details.ContentSecurityPolicyIssueDetails; csp != nil {
			fault = fmt.Sprintf("content security policy: %s violated by %s (%s)", csp.ViolatedDirective, cmp.Or(csp.BlockedURL, "the page"), csp.ContentSecurityPolicyViolationType)
		}
	}
	if fault != "" {
		p.mu.Lock()
		p.faults = append(p.faults, fault)
		p.mu.Unlock()
	}
}

func words(args []*runtime.RemoteObject) string {
	var all []string
	for _, arg := range args {
		text := ""
		if json.Unmarshal(arg.Value, &text) != nil {
			text = cmp.Or(arg.Description, string(arg.Value))
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

// Expect declares that faults with this text in them are part of the test.
func (p *Page) Expect(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected = append(p.expected, text)
}

// Faults returns what went wrong so far and was not expected.
func (p *Page) Faults() []string {
	p.tb.Helper()
	// What the page has said by now arrives before the answer to a question.
	if _, err := evaluate[int](p, "1"); err != nil {
		p.tb.Errorf("chromium: the page is gone: %v", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
faults:
	for _, fault := range p.faults {
		for _, text := range p.expected {
			if strings.Contains(fault, text) {
				continue faults
			}
		}
		all = append(all, fault)
	}
	return all
}

// WaitFault waits until a fault with this text in it is there, and expects it.
func (p *Page) WaitFault(text string) {
	p.tb.Helper()
	p.until("the fault "+text, func() error {
		if faults := p.Faults(); !slices.ContainsFunc(faults, func(f string) bool { return strings.Contains(f, text) }) {
			return fmt.Errorf("there are %q", faults)
		}
		return nil
	})
	p.Expect(text)
}

func (p *Page) report() {
	p.tb.Helper()
	for _, fault := range p.Faults() {
		p.tb.Errorf("chromium: %s", fault)
	}
	if p.tb.Failed() {
		at, _ := evaluate[string](p, "location.href")
		text, _ := evaluate[string](p, finder+"texts(document)")
		p.tb.Logf("chromium: the page is at %s and reads:\n%s", at, text)
	}
}

// Navigate loads the address and waits for the page.
func (p *Page) Navigate(address string) {
	p.tb.Helper()
	p.do("navigate to "+address, chromedp.Navigate(address))
}

// Reload loads the page again.
func (p *Page) Reload() {
	p.tb.Helper()
	p.do("reload", chromedp.Reload())
}

// URL returns the address of the page.
func (p *Page) URL() string {
	p.tb.Helper()
	return Eval[string](p, "location.href")
}

// WaitURL waits until the address of a loaded page begins with prefix.
func (p *Page) WaitURL(prefix string) {
	p.tb.Helper()
	p.WaitFor("document.readyState !== 'loading' && location.href.startsWith(" + quoted(prefix) + ")")
}

// WaitVisible waits until an element is there to be seen.
func (p *Page) WaitVisible(selector string) {
	p.tb.Helper()
	p.WaitFor("seen(" + quoted(selector) + ") !== null")
}

// WaitText waits until the text is to be read on the page.
func (p *Page) WaitText(text string) {
	p.tb.Helper()
	p.WaitFor("texts(document).includes(" + quoted(text) + ")")
}

// WaitFor waits until the expression holds, across navigations. It may use seen(selector), the
// first visible element or null, and texts(document), what is to be read.
func (p *Page) WaitFor(expression string) {
	p.tb.Helper()
	p.until(expression, func() error {
		holds, err := evaluate[bool](p, finder+"!!("+expression+")")
		if err == nil && !holds {
			err = errors.New("it does not hold")
		}
		return err
	})
}

// Text returns the text of an element, once it is visible.
func (p *Page) Text(selector string) string {
	p.tb.Helper()
	p.WaitVisible(selector)
	return strings.TrimSpace(Eval[string](p, finder+"seen("+quoted(selector)+").innerText"))
}

// Click clicks the middle of an element with the mouse, once it is visible.
func (p *Page) Click(selector string) {
	p.tb.Helper()
	box := p.box(selector)
	p.do("click "+selector, chromedp.MouseClickXY(box.X+box.Width/2, box.Y+box.Height/2))
}

// Type replaces what is in a field, key by key.
func (p *Page) Type(selector, text string) {
	p.tb.Helper()
	p.Click(selector)
	Eval[bool](p, finder+"seen("+quoted(selector)+").select(), true")
	p.Press(text)
}

// Press presses keys where the focus is; package kb names those that are no characters.
func (p *Page) Press(keys string) {
	p.tb.Helper()
	p.do("press keys", chromedp.KeyEvent(keys))
}

// Tap touches the middle of an element with a finger, once it is visible.
func (p *Page) Tap(selector string) {
	p.tb.Helper()
	box := p.box(selector)
	points := []*input.TouchPoint{{X: box.X + box.Width/2, Y: box.Y + box.Height/2}}
	p.do("tap "+selector, chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, start := cdp.Call(ctx, t, input.DispatchTouchEvent, input.DispatchTouchEventParams{Type: input.DispatchTouchEventTypeTouchStart, TouchPoints: points})
		_, end := cdp.Call(ctx, t, input.DispatchTouchEvent, input.DispatchTouchEventParams{Type: input.DispatchTouchEventTypeTouchEnd, TouchPoints: []*input.TouchPoint{}})
		return errors.Join(start, end)
	}))
}

// Eval returns the value of an expression in the page; a promise is waited for. A page without
// scripts answers too, but runs no timer. Bytes are the JSON of the value.
func Eval[T any](p *Page, expression string) T {
	p.tb.Helper()
	value, err := evaluate[T](p, expression)
	if err != nil {
		p.tb.Fatalf("chromium: %.200s: %v", expression, err)
	}
	return value
}

func evaluate[T any](p *Page, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise, p.within()))
}

// do runs a step within the limit.
func (p *Page) do(what string, step chromedp.Action[chromedp.Void]) {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	defer cancel()
	if err := chromedp.Do(ctx, step); err != nil {
		p.tb.Fatalf("chromium: %s: %v", what, err)
	}
}

// until tries again until it succeeds, or fails the test at the limit.
func (p *Page) until(what string, try func() error) {
	p.tb.Helper()
	over := time.After(limit)
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-over:
			p.tb.Fatalf("chromium: waited %s for %s: %v", limit, what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// rectangle is a part of the page in CSS pixels from the corner of the viewport.
type rectangle struct{ X, Y, Width, Height float64 }

// box scrolls an element into view, once it is visible, and says where it is.
func (p *Page) box(selector string) rectangle {
	p.tb.Helper()
	var box rectangle
	p.until(selector+" to be visible", func() error {
		found, err := evaluate[*rectangle](p, finder+"box("+quoted(selector)+")")
		if err == nil && found == nil {
			err = errors.New("it is not there")
		}
		if err == nil {
			box = *found
		}
		return err
	})
	return p.moved(box)
}

func quoted(text string) string {
	literal, _ := json.Marshal(text) // a string cannot fail
	return string(literal)
}

// finder are the functions that look for elements, in frames of the same origin too. They stand
// before an expression, whose value is that of the whole.
const finder = `
var framesOf = doc => [...doc.querySelectorAll('iframe')].filter(f => f.checkVisibility() && f.contentDocument);
var seen = (selector, doc = document) => {
  for (const el of doc.querySelectorAll(selector)) {
    const r = el.getBoundingClientRect();
    if (r.width > 0 && r.height > 0 && el.checkVisibility({ opacityProperty: true, visibilityProperty: true })) return el;
  }
  for (const frame of framesOf(doc)) {
    const el = seen(selector, frame.contentDocument);
    if (el) return el;
  }
  return null;
};
var texts = doc => [doc.body ? doc.body.innerText : '', ...framesOf(doc).map(f => texts(f.contentDocument))].join('\n');
var box = selector => {
  const el = seen(selector);
  if (!el) return null;
  el.scrollIntoView({ block: 'center', inline: 'center', behavior: 'instant' });
  const { x, y, width, height } = el.getBoundingClientRect();
  const at = { x, y, width, height };
  for (let frame = el.ownerDocument.defaultView.frameElement; frame; frame = frame.ownerDocument.defaultView.frameElement) {
    const outer = frame.getBoundingClientRect();
    at.x += outer.x + frame.clientLeft;
    at.y += outer.y + frame.clientTop;
  }
  return at;
};
`
