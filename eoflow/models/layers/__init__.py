"""Parts that several networks share: padding on sphere and limited area, buffers of fitted size, the clock."""
