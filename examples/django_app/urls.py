"""The addresses of the help desk."""

from django.urls import path

from examples.django_app import views

urlpatterns = [
    path("sign-in", views.sign_in),
    path("tickets", views.Tickets.as_view()),
    path("tickets/<ticket_id>", views.TicketView.as_view()),
    path("tickets/<ticket_id>/history", views.history),
    path("titles", views.titles),
    path("health", views.health),
    path("pool", views.pool),
]
