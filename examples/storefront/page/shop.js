"use strict";
(() => {
  const categories = ["anchors", "blocks", "charts", "cleats", "compasses", "fenders", "flags", "lamps", "ropes", "sails"];
  const $ = (id) => document.getElementById(id);
  const money = (cents) => (cents / 100).toFixed(2) + " €";
  const element = (tag, text, attrs = {}) => Object.assign(document.createElement(tag), { textContent: text, ...attrs });
  let category = "ropes", after = 0, quiet;

  function say(text) {
    $("message").textContent = text;
    clearTimeout(quiet);
    quiet = setTimeout(() => { $("message").textContent = ""; }, 4000);
  }
  // call asks the API. A refusal that may be tried again is tried again once, when the server says so.
  async function call(method, path, body, again = true) {
    const options = { method, headers: {} };
    if (body !== undefined) { options.body = JSON.stringify(body); options.headers["Content-Type"] = "application/json"; }
    if (method === "POST" && path === "/orders") options.headers["Idempotency-Key"] = crypto.randomUUID();
    const response = await fetch(path, options);
    $("served").textContent = "answered by worker " + response.headers.get("Worker");
    if ((response.status === 503 || response.status === 429) && again && path !== "/orders") {
      await new Promise((done) => setTimeout(done, 1000 * (parseInt(response.headers.get("Retry-After")) || 1)));
      return call(method, path, body, false);
    }
    const answer = response.status === 204 ? null : await response.json();
    if (!response.ok) throw new Error(answer.detail || answer.title);
    return answer;
  }
  const trying = (f) => async (...args) => { try { await f(...args); } catch (e) { say(e.message); } };

  const more = trying(async () => {
    const page = await call("GET", `/products?category=${category}&limit=12&after=${after}`);
    for (const p of page.products) {
      const li = element("li", ""), row = element("p", "");
      li.dataset.id = p.id;
      const add = element("button", "Add", { type: "button" });
      add.setAttribute("aria-label", "Add " + p.name + " to the cart");
      add.addEventListener("click", trying(async () => showCart(await call("POST", "/cart/items", { product_id: p.id, qty: 1 }))));
      row.append(element("span", money(p.price_cents), { className: "price" }), add);
      li.append(element("h3", p.name), row);
      $("products").append(li);
    }
    after = page.after || 0;
    $("more").hidden = after === 0;
  });
  function show(name) {
    category = name;
    after = 0;
    $("products").replaceChildren();
    for (const b of $("categories").children) b.setAttribute("aria-pressed", b.textContent === name);
    return more();
  }
  function showCart(cart) {
    $("cart").replaceChildren(...cart.items.map((i) => {
      const li = element("li", "");
      li.append(element("span", `${i.qty} × ${i.name}`), element("span", money(i.price_cents * i.qty)));
      return li;
    }));
    $("total").textContent = cart.items.length ? "Total " + money(cart.total_cents) : "Nothing in it yet.";
    $("order").disabled = cart.items.length === 0;
  }
  async function showOrders() {
    const { orders } = await call("GET", "/orders");
    $("orders").replaceChildren(...orders.slice(0, 8).map((o) => {
      const li = element("li", "");
      li.append(element("span", "No. " + o.id), element("span", money(o.total_cents)));
      return li;
    }));
  }
  async function showVisitor() {
    const me = await call("GET", "/me");
    $("login").hidden = me.user !== "";
    $("who").hidden = me.user === "";
    $("who").firstElementChild.textContent = me.user;
    if (me.user) await showOrders(); else $("orders").replaceChildren();
  }

  for (const name of categories) {
    const b = element("button", name, { type: "button" });
    b.addEventListener("click", () => show(name));
    $("categories").append(b);
  }
  $("more").addEventListener("click", more);
  $("login").addEventListener("submit", (e) => {
    e.preventDefault();
    trying(async () => { await call("POST", "/login", { user: new FormData($("login")).get("user") }); await showVisitor(); })();
  });
  const leave = (path) => trying(async () => { await call("POST", path); await showVisitor(); showCart(await call("GET", "/cart")); });
  $("logout").addEventListener("click", leave("/logout"));
  $("everywhere").addEventListener("click", leave("/logout/everywhere"));
  $("order").addEventListener("click", trying(async () => {
    if ($("who").hidden) throw new Error("Log in first.");
    const order = await call("POST", "/orders");
    say(`Order no. ${order.id} is placed.`);
    showCart(await call("GET", "/cart"));
    await showOrders();
  }));

  new EventSource("/events").addEventListener("product", (e) => {
    const change = JSON.parse(e.data), price = document.querySelector(`#products li[data-id="${change.id}"] .price`);
    if (!price) return;
    price.textContent = money(change.price_cents);
    price.classList.remove("changed");
    void price.offsetWidth; // begins the animation anew
    price.classList.add("changed");
  });
  show(category);
  trying(async () => { showCart(await call("GET", "/cart")); await showVisitor(); })();
})();
