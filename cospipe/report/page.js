"use strict";
// Draws the charts of the page in the colours of its theme, and again when the theme changes.
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const root = document.documentElement;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");

  const themed = (layout) => {
    const style = getComputedStyle(root);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false, ticks: "", automargin: true };
    const template = {
      layout: {
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: colour("--text"), family: colour("--font"), size: 12 },
        xaxis: axis,
        yaxis: axis,
        hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--text") }, align: "left" },
        legend: { orientation: "h", x: 0, xanchor: "left", bgcolor: "rgba(0,0,0,0)" },
      },
    };
    return { ...layout, template, autosize: true };
  };

  const draw = () => {
    for (const [key, chart] of Object.entries(charts)) {
      const options = { responsive: true, displaylogo: false, displayModeBar: "hover" };
      Plotly.react(`chart-${key}`, chart.data, themed(chart.layout), options);
    }
  };

  const use = (isDark) => {
    root.dataset.theme = isDark ? "dark" : "light";
    draw();
  };

  prefersDark.addEventListener("change", (event) => use(event.matches));
  document.getElementById("theme").addEventListener("click", () => use(root.dataset.theme !== "dark"));
  use(prefersDark.matches);
})();
