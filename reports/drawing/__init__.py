"""What does each kind of figure look like? One file per kind, drawn once for the page, for files and for the reader's own Matplotlib.

A kind `LensGrid` is drawn by `lens_grid.py`, which exports `picture(figure) -> Picture`: the size in CSS pixels, and a function
that paints a Matplotlib figure of that size. `outputs` makes SVG, PNG, PDF and the Matplotlib figure of it, so that all four follow.

    def picture(figure: LensGrid) -> Picture:
        def paint(canvas: Canvas) -> None:
            panel = axes(canvas, 40, 10, 400, 200)                # CSS pixels from the top left corner
            image = shade(panel, values, scale)                   # a grid of values: one pixel each, also in SVG
            color_bar(canvas, scale, figure.unit, 456, 10, 200, upright=True, of=image)
        return Picture(figure, 520, 260, paint)

What `paint` keeps to: `axes`, `write` and Matplotlib's own methods, no pyplot and no settings; text through `visible_label` or
`visible_token`; colours of ink from `canvas`, so that SVG can follow a dark reader; values through `numbers`; grids of values by
`shade` and nothing else, for a vector mesh takes megabytes. Where there is nothing to see, `nothing_to_draw(figure, why)` says so.
"""
