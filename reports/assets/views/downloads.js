// Files that the page carries, deflated, become downloads when somebody asks for them.
{
  async function inflated(block) {
    const { deflate, name } = JSON.parse(block.textContent);
    const bytes = Uint8Array.from(atob(deflate), (sign) => sign.charCodeAt(0));
    const whole = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return { name, text: await new Response(whole).text() };
  }

  function save({ name, text }) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: name.endsWith(".json") ? "application/json" : "text/csv;charset=utf-8" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  // A frame may be forbidden to save files, and is not told so: there the text is shown too, to be copied.
  function offer(button, { name, text }) {
    const id = `text-of-${name}`;
    if (document.getElementById(id)) return;
    const area = document.createElement("textarea");
    area.id = id;
    area.className = "copy";
    area.readOnly = true;
    area.rows = 6;
    area.value = text;
    area.setAttribute("aria-label", `${name}, to be copied where this frame may not save files`);
    button.parentElement.append(area);
    area.focus();
    area.select();
  }

  for (const button of document.querySelectorAll("button[data-file]")) {
    const beside = button.nextElementSibling;
    const block = beside?.matches("script[data-file]") ? beside
      : [...document.querySelectorAll("script[data-file]")].find((one) => one.dataset.file === button.dataset.file);
    if (!block) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        const file = await inflated(block);
        save(file);
        if (window !== window.top) offer(button, file);
      } catch {
        button.disabled = true;
        button.textContent = "this browser cannot unpack the file";
      }
    });
  }
}
