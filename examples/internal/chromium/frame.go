package chromium

import (
	"encoding/json"
	"errors"
	"slices"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// document is what a frame shows at the moment: scripts run in it by its id.
type document struct{ id, origin string }

// Frame returns the frame of another origin that the page shows, once there is one. Elements in it
// are found, clicked and read like those of a page; pictures, addresses and faults are the
// page's. It lasts across navigations of the frame: the latest document of the origin counts.
func (p *Page) Frame(origin string) *Page {
	p.tb.Helper()
	p.until("a frame of "+origin, func() error {
		if p.document(origin) == "" {
			return errors.New("there is none")
		}
		return nil
	})
	return &Page{tb: p.tb, ctx: p.ctx, noScript: p.noScript, outer: p, origin: origin}
}

// document returns the id of the latest document of an origin; empty when there is none.
func (p *Page) document(origin string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range slices.Backward(p.documents) {
		if d.origin == origin {
			return d.id
		}
	}
	return ""
}

// hearDocument keeps which documents there are.
func (p *Page) hearDocument(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExecutionContextCreated:
		var aux struct{ IsDefault bool }
		if json.Unmarshal(e.Context.AuxData, &aux) == nil && aux.IsDefault {
			p.documents = append(p.documents, document{e.Context.UniqueID, e.Context.Origin})
		}
	case *runtime.EventExecutionContextDestroyed:
		p.documents = slices.DeleteFunc(p.documents, func(d document) bool { return d.id == e.ExecutionContextUniqueID })
	case *runtime.EventExecutionContextsCleared:
		p.documents = nil
	}
}

// within lets an expression run in the frame, where the page is one.
func (p *Page) within() chromedp.EvaluateOption {
	return func(params *runtime.EvaluateParams) {
		if p.outer != nil {
			params.UniqueContextID = p.outer.document(p.origin)
		}
	}
}

// moved says where a part of the frame is on the page around it.
func (p *Page) moved(box rectangle) rectangle {
	p.tb.Helper()
	if p.outer == nil {
		return box
	}
	frame := Eval[rectangle](p.outer, `(() => {
		const frame = [...document.querySelectorAll('iframe')].find(f => f.src.startsWith(`+quoted(p.origin+"/")+`));
		const { x, y } = frame.getBoundingClientRect();
		return { x: x + frame.clientLeft, y: y + frame.clientTop, width: 0, height: 0 };
	})()`)
	return rectangle{X: box.X + frame.X, Y: box.Y + frame.Y, Width: box.Width, Height: box.Height}
}
