// Lets JupyterLab 4 show itkwidgets 0.32, whose own script was written for the classic notebook.
// JupyterLab loads this file as a prebuilt extension: init() hands over the shared modules, get()
// returns the plugin. The plugin registers the module "itkwidgets" and, when a widget asks for it,
// evaluates the packaged file with a stand-in for its loader.
var _JUPYTERLAB = typeof _JUPYTERLAB === "undefined" ? {} : _JUPYTERLAB;
(() => {
  const here = document.currentScript.src.replace(/[^/]*$/, "");
  let shared;

  async function sharedModule(name) {
    const versions = shared[name];
    return (await versions[Object.keys(versions)[0]].get())();
  }

  // The old file derives its classes with Backbone's `extend`, which the native classes of newer
  // widget packages no longer understand; a subclass with an `extend` of its own does.
  function extendable(Base) {
    function extend(members, statics) {
      const Parent = this;
      const Derived = class extends Parent {};
      Object.assign(Derived.prototype, members || {});
      Object.assign(Derived, { extend, __super__: Parent.prototype }, statics || {});
      return Derived;
    }
    return Object.assign(class extends Base {}, { extend });
  }

  async function itkwidgets(base) {
    const names = ["WidgetModel", "DOMWidgetModel", "DOMWidgetView"];
    const old = Object.fromEntries(names.map(name => [name, extendable(base[name])]));
    const source = await (await fetch(`${here}nbextensions/itkwidgets/index.js`)).text();
    const { body } = document,
      url = body.getAttribute("data-base-url");
    let found;
    // The file finds its workers relative to this attribute.
    body.setAttribute("data-base-url", here);
    new Function("define", source)((needed, make) => {
      found = make({ ...base, ...old });
    });
    if (url === null) body.removeAttribute("data-base-url");
    else body.setAttribute("data-base-url", url);
    return found;
  }

  async function plugin() {
    const base = await sharedModule("@jupyter-widgets/base");
    return {
      id: "regnet-itk-bridge:plugin",
      autoStart: true,
      requires: [base.IJupyterWidgetRegistry],
      activate: (_app, registry) =>
        registry.registerWidget({
          name: "itkwidgets",
          version: "0.32.6",
          exports: () => itkwidgets(base),
        }),
    };
  }

  _JUPYTERLAB["regnet-itk-bridge"] = {
    init: async modules => {
      shared = modules;
    },
    get: async () => {
      const made = await plugin();
      return () => ({ __esModule: true, default: made });
    },
  };
})();
