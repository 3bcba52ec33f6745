package main

import (
	"maps"
	"net/http"
	"slices"
)

// Visitor is what a session holds.
type Visitor struct {
	User   string        `json:"user,omitempty"`
	Logins int           `json:"logins,omitempty"`
	Visits int           `json:"visits,omitempty"`
	Cart   map[int64]int `json:"cart,omitempty"` // product: quantity

	// LastOrder is the newest order that was taken out of the cart, so that a repeated request does not do it again.
	LastOrder int64 `json:"last_order,omitempty"`
}

const (
	maxQty   = 1000 // of one product
	maxLines = 100  // in one cart
)

func (s *shop) getCart(w http.ResponseWriter, r *http.Request) error {
	v, err := s.sessions.From(r.Context()).Get(r.Context())
	if err != nil {
		return err
	}
	return s.replyCart(w, r, v)
}

// addToCart changes the session by a function of its newest value: of two requests at once, in whichever processes, neither
// loses what the other did.
func (s *shop) addToCart(w http.ResponseWriter, r *http.Request) error {
	var item struct {
		ProductID int64 `json:"product_id"`
		Qty       int   `json:"qty"`
	}
	if err := readJSON(w, r, &item); err != nil {
		return err
	}
	if item.Qty < 1 || item.Qty > maxQty {
		return badRequest("qty must be 1 to 1000")
	}
	if _, err := s.products.Get(r.Context(), item.ProductID); err != nil {
		return err
	}
	v, err := s.sessions.From(r.Context()).Update(r.Context(), func(v *Visitor) error {
		if v.Cart == nil {
			v.Cart = make(map[int64]int)
		}
		if v.Cart[item.ProductID]+item.Qty > maxQty {
			return conflict("The cart holds at most 1000 of a product.")
		}
		v.Cart[item.ProductID] += item.Qty
		if len(v.Cart) > maxLines {
			return conflict("The cart holds at most 100 products.")
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.replyCart(w, r, v)
}

func (s *shop) emptyCart(w http.ResponseWriter, r *http.Request) error {
	_, err := s.sessions.From(r.Context()).Update(r.Context(), func(v *Visitor) error { v.Cart = nil; return nil })
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

type cartLine struct {
	ProductID  int64  `json:"product_id"`
	Qty        int    `json:"qty"`
	Name       string `json:"name"`
	PriceCents int32  `json:"price_cents"`
}

// replyCart answers with the cart at today's prices.
func (s *shop) replyCart(w http.ResponseWriter, r *http.Request, v Visitor) error {
	ids := slices.Sorted(maps.Keys(v.Cart))
	products, err := s.products.GetMany(r.Context(), ids)
	if err != nil {
		return err
	}
	cart := struct {
		Items      []cartLine `json:"items"`
		TotalCents int64      `json:"total_cents"`
	}{Items: []cartLine{}}
	for _, id := range ids {
		p, qty := products[id], v.Cart[id]
		cart.Items = append(cart.Items, cartLine{id, qty, p.Name, p.PriceCents})
		cart.TotalCents += int64(p.PriceCents) * int64(qty)
	}
	return reply(w, http.StatusOK, cart)
}
